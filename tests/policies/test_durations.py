"""Measured tool durations, service clocks and pins: the bookkeeping that policies share."""

import pytest

from tokencake.policies.api import Event, EventKind, Keep
from tokencake.policies.durations import EVERY_TOOL, ToolHistory
from tokencake.policies.returns import Pins
from tokencake.policies.service import Service


def ended(tool, seconds):
    return Event(EventKind.TOOL_FINISHED, 0.0, program="p", node="t", tool=tool, elapsed_s=seconds)


def test_durations_are_ranked_by_tool_and_for_all_tools():
    history = ToolHistory(window=3)
    for tool, seconds in (("web", 3.0), ("shell", 9.0), ("web", 1.0), ("web", 2.0)):
        history.observe(ended(tool, seconds))
    assert list(history.sorted("web")) == [1.0, 2.0, 3.0]
    assert list(history.sorted(EVERY_TOOL)) == [1.0, 2.0, 9.0]  # the first of four is forgotten
    assert list(history.sorted("other")) == []


def happened(kind, at, call="p/a"):
    return Event(kind, at, program="p", call=call)


def test_service_is_from_admission_to_preemption_or_finish():
    service = Service()
    for kind, at in (
        (EventKind.CALL_QUEUED, 1.0),
        (EventKind.CALL_ADMITTED, 3.0),
        (EventKind.CALL_PREEMPTED, 4.0),
        (EventKind.CALL_ADMITTED, 9.0),
    ):
        service.observe(happened(kind, at))
    clock = service.call("p", "p/a")
    assert (clock.waited_at(11.0), clock.served_at(11.0)) == (7.0, 3.0)
    service.observe(happened(EventKind.CALL_FINISHED, 12.0))
    program = service.program("p")
    assert (program.waited, program.served, program.finished) == (7.0, 4.0, 1)
    assert service.call("p", "p/a") is None


class Chain:
    """As much of a chain's view as bookkeeping asks for."""

    next_calls = ("b", "c")

    class call:  # noqa: N801
        id = "p/a"

        class program:  # noqa: N801
            id = "p"


def test_a_pin_ends_with_the_last_call_that_it_waits_for():
    pins = Pins()
    pins.add(Chain)
    assert pins.awaits("p/b") and pins.awaits("p/c") and "p/a" in pins
    pins.observe(happened(EventKind.CALL_ADMITTED, 1.0, "p/b"))
    assert "p/a" in pins and not pins.awaits("p/b")
    pins.observe(happened(EventKind.CALL_ADMITTED, 1.0, "p/c"))
    assert list(pins) == []


@pytest.mark.parametrize(
    "event",
    [
        Event(EventKind.PIN_EXPIRED, 1.0, call="p/a"),
        Event(EventKind.PIN_LIFTED, 1.0, call="p/a"),
        Event(EventKind.PROGRAM_FINISHED, 1.0, program="p"),
        Event(EventKind.ACTION_REFUSED, 1.0, call="p/a", action=Keep(), reason="no"),
    ],
    ids=lambda event: event.kind.name,
)
def test_what_else_ends_a_pin(event):
    pins = Pins()
    pins.add(Chain)
    pins.observe(event)
    assert list(pins) == [] and not pins.awaits("p/b")
