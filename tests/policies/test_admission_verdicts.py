"""SKIP, LATER and STOP; PARK and UNPARK; RESERVE: who gets in, and when."""

import pytest

from tokencake.policies.api import Park, Policy, Reserve, Timer, Unpark, Verdict, stock_admit


class Judge(Policy):
    """Gives one verdict for a call, while it does not fit or always; stock vLLM for the others."""

    def __init__(self, node, verdict, *, always=False):
        self.node, self.verdict, self.always = node, verdict, always
        self.asked = []

    def admit(self, view, call, need):
        self.asked.append((view.step, call.node))
        if call.node == self.node and (self.always or not need.fits) and view.running:
            return self.verdict
        return stock_admit(need)


@pytest.fixture
def queue(program, call):
    """Ten of twenty blocks are taken for 20 ms; then come one call of twelve blocks and one of two."""
    return [
        program("first", call("runs", 40, 20)),
        program("second", call("big", 48, 2), call("small", 8, 2), at_s=0.0005),
    ]


@pytest.fixture
def starts(play):
    """Admission times in milliseconds, by call."""

    def find(programs, policy, **engine):
        columns = play(programs, policy, **engine).calls.columns
        return {n: round(s * 1000) for n, s in zip(columns["call"], columns["admitted_s"], strict=True)}

    return find


def test_stop_starves_the_small(queue, starts):
    found = starts(queue, Judge("big", Verdict.STOP))
    assert found["small"] == found["big"] == 20


def test_skip_admits_the_small(queue, starts):
    found = starts(queue, Judge("big", Verdict.SKIP))
    assert found["small"] == 1
    assert found["big"] == 20


def test_later_is_offered_once_more_after_the_others(queue, starts):
    judge = Judge("big", Verdict.LATER)
    found = starts(queue, judge)
    assert found["small"] == 1
    assert found["big"] == 20
    assert [node for step, node in judge.asked if step == 1] == ["big", "small", "big"]


def test_admit_of_what_does_not_fit_is_a_refused_stop(queue, starts, scripted):
    policy = scripted()
    policy.admit = lambda view, call, need: Verdict.ADMIT
    found = starts(queue, policy)
    assert found["small"] == found["big"] == 20
    refused = [event for event in policy.events if event.kind.name == "ACTION_REFUSED"]
    assert {(event.call, event.reason) for event in refused} == {("second/big", "does not fit")}


def test_left_out_of_the_order_is_deferred(queue, starts):
    policy = Policy()
    policy.order = lambda view, waiting: [c for c in waiting if c.node != "big" or not view.running]
    assert starts(queue, policy)["small"] == 1


def test_park_and_unpark(program, call, starts, scripted):
    """'late' is parked when it arrives and unparked by a timer at 50 ms; 'other' passes it."""
    policy = scripted(
        {
            ("QUEUED", "late"): lambda view, subject: (Park("p"), Timer(0.05)),
            ("TIMER", ""): (Unpark("p"),),
        }
    )
    found = starts([program("p", call("late", 8)), program("q", call("other", 8), at_s=0.01)], policy)
    assert found == {"late": 50, "other": 10}
    assert policy.refusals() == []


def test_what_stays_parked_at_the_end_is_let_go(program, call, starts, scripted):
    policy = scripted({("QUEUED", "late"): (Park("p"),)})
    found = starts([program("p", call("late", 8)), program("q", call("other", 8), at_s=0.01)], policy)
    assert found["late"] == 11


def test_reserve_keeps_others_out(program, call, starts, scripted):
    """Twelve of twenty blocks belong to 'vip': of two calls of five blocks only one of another type runs."""
    policy = scripted({("STEP", ""): (Reserve({"vip": 12}),)})
    policy.admit = lambda view, call, need: stock_admit(need) if need.fits else Verdict.SKIP
    found = starts(
        [
            program("p", call("a", 20, 10), call("b", 20, 10)),
            program("v", call("v", 40, 4, kind="vip"), at_s=0.002),
        ],
        policy,
    )
    assert found["a"] == 0
    assert found["v"] == 2
    assert found["b"] == 10
    assert policy.refusals() == []


def test_a_reserve_that_leaves_nothing_is_lifted(program, call, play, scripted):
    """Nothing runs and nothing may start: after PRESSURE, reservations go."""
    policy = scripted({("QUEUED", "a"): (Reserve({"vip": 20}),)})
    result = play([program("p", call("a", 20))], policy)
    assert result.summary["events"]["reserves_lifted"] == 1
    assert "RESERVES_LIFTED" in policy.kinds()
    assert result.summary["calls"] == 1


@pytest.mark.parametrize(
    ("plan", "reason"), [({"x": -1}, "a reservation is negative"), ({"x": 15, "y": 6}, "exceed the GPU tier")]
)
def test_impossible_reserves_are_refused(program, call, play, scripted, plan, reason):
    policy = scripted({("QUEUED", "a"): (Reserve(plan),)})
    play([program("p", call("a", 20))], policy)
    ((action, found),) = policy.refusals()
    assert action == "Reserve"
    assert reason in found
