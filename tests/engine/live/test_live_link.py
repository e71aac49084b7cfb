"""When the copies of a live link are carried out, and what time they take. No vLLM needed."""

import pytest

from tokencake.engine.live_link import LiveLink
from tokencake.sim.clock import Clock
from tokencake.sim.config import NEVER, PS, LinkConfig
from tokencake.sim.transfer import Transfer


class Copies:
    """Notes what it is told to copy."""

    def __init__(self):
        self.log = []

    def store(self, blocks, slots):
        self.log.append(("store", blocks, slots))

    def stage(self, slots):
        return [slots]

    def load(self, slots, blocks, staged=None):
        self.log.append(("load", slots, blocks))


@pytest.fixture
def made():
    def make(*, measured):
        clock, copies = Clock(), Copies()
        where = {"a": ([1, 2], [7, 8]), "b": ([3], [9])}
        link = LiveLink(
            clock, LinkConfig(1.0, 1.0), copies, lambda t: where[t.subject], measured=measured, cpu_time=True
        )
        return clock, copies, link

    return make


def transfer(way, subject, size=10**9, done=lambda _: None):
    return Transfer(way, size, 1, "store", subject, done)


def finish(clock):
    while clock.coming_ps != NEVER:
        clock.step()


def test_a_measured_copy_is_carried_out_at_once_and_takes_what_it_took(made):
    clock, copies, link = made(measured=True)
    moving = transfer("d2h", "a")
    link.start(moving)
    assert copies.log == [("store", [1, 2], [7, 8])]
    finish(clock)
    assert moving.state == "done"
    assert moving.finish_ps - moving.start_ps < PS // 100, "not the second that the link would need"


def test_a_measured_copy_to_the_gpu_reaches_its_blocks_when_it_is_over(made):
    clock, copies, link = made(measured=True)
    link.start(transfer("h2d", "b"))
    assert copies.log == []
    finish(clock)
    assert copies.log == [("load", [9], [3])]


def test_an_emulated_copy_is_carried_out_when_its_time_is_over(made):
    clock, copies, link = made(measured=False)
    ended = []
    moving = transfer("h2d", "b", done=lambda t: ended.append((t.finish_ps, list(copies.log))))
    link.start(moving)
    assert copies.log == []
    finish(clock)
    assert ended == [(PS, [("load", [9], [3])])], "one second for 1e9 bytes; the data is there when it is said to be"


def test_a_step_is_preceded_by_the_copies_that_it_waits_for(made):
    clock, copies, link = made(measured=False)
    first, second = transfer("d2h", "a", 10**8), transfer("d2h", "b", 10**9)
    link.start(first)
    link.start(second)
    link.before_step()
    assert copies.log == []
    assert link.promise_ps(first) == PS // 5, "two share the link: 0.1 s of work takes 0.2 s"
    link.before_step()
    assert copies.log == [("store", [1, 2], [7, 8])]
    finish(clock)
    assert copies.log == [("store", [1, 2], [7, 8]), ("store", [3], [9])], "each of them once"


def test_a_cancelled_copy_is_not_carried_out(made):
    clock, copies, link = made(measured=False)
    moving = transfer("h2d", "a")
    link.start(moving)
    link.cancel(moving)
    finish(clock)
    assert copies.log == []
