"""What a policy sees and hears, when it is woken, and what is said of its answers."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small import call, one, two_turns, world
from tokencake.policies.api import (
    EventKind,
    Keep,
    Policy,
    Preempt,
    Reserve,
    Timer,
    Trigger,
    Verdict,
    stock_admit,
)
from tokencake.policies.guard import HookError
from tokencake.sim.config import PS, wake_ps
from tokencake.sim.host import Host
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.run import simulate
from tokencake.sim.summary import totals
from tokencake.traces.schema import Piece


class SeesStalls(Policy):
    """Looks at stalled chains where it is asked about something else."""

    def __init__(self):
        self.seen = []

    def order(self, view, waiting):
        self.seen.append([(chain.call.id, chain.stalled_s) for chain in view.stalled])
        return waiting


def test_stalled_chains_are_shown_to_a_policy_that_does_not_place_them():
    class Places(SeesStalls):
        def place(self, view, trigger, subject):
            return ()

    seen = []
    for kind in (SeesStalls, Places):
        policy = kind()
        simulate([two_turns("p"), two_turns("q", tool_s=0.4)], world(), policy)
        seen.append(policy.seen)
    assert seen[0] == seen[1]
    assert any(seen[0])


@pytest.mark.parametrize("logged", [False, True])
def test_a_call_that_a_policy_only_heard_of_can_be_preempted(logged):
    class Preempts(Policy):
        def __init__(self):
            self.running = ""

        def observe(self, event, view):
            if event.kind is EventKind.CALL_ADMITTED and not self.running:
                self.running = event.call

        def place(self, view, trigger, subject):
            return (Preempt(self.running),) if trigger is Trigger.STEP and view.now > 0.1 else ()

    config = replace(world(), log_decisions=logged)
    programs = [one("p", call("c", [Piece("x", 64)], 600)), one("q", call("c", [Piece("y", 64)], 16), at=0.15)]
    assert simulate(programs, config, Preempts()).summary["preemptions"] > 0


def test_the_log_says_when_a_named_victim_was_not_taken():
    class Wrong(Policy):
        def victim(self, view, need, for_call):
            return view.waiting[-1] if view.waiting else for_call

    programs = [one(f"p{i}", call("c", [Piece(f"x{i}", 64)], 200), at=0.01 * i) for i in range(6)]
    config = replace(world(gpu_blocks=20, max_num_seqs=4, reserve_full_isl=False), log_decisions=True)
    result = simulate(programs, config, Wrong())
    columns = result.decisions.columns
    answers = {
        (chosen == subject, outcome)
        for hook, subject, chosen, outcome in zip(
            columns["hook"], columns["subject"], columns["decision"], columns["outcome"], strict=True
        )
        if hook == "victim"
    }
    assert answers == {(False, "not running"), (True, "done")}


@pytest.mark.parametrize("position", [0, -1])
def test_the_log_says_of_a_victim_whether_it_was_preempted(position):
    """Asynchronously, with a CPU tier, a call whose step is in flight is not; the same is asked in the next step."""

    class Picks(Policy):
        def victim(self, view, need, for_call):
            return view.running[position]

    programs = [one(f"p{i}", call("c", [Piece(f"x{i}", 64)], 200), at=0.01 * i) for i in range(6)]
    config = replace(world(gpu_blocks=40, cpu_blocks=20, async_scheduling=True), log_decisions=True)
    result = simulate(programs, config, Picks())
    rows = list(
        zip(*(result.decisions.columns[name] for name in ("hook", "subject", "decision", "outcome")), strict=True)
    )
    taken = [chosen for hook, _, chosen, outcome in rows if hook == "victim" and outcome == "done"]
    assert taken == [preempted for hook, preempted, _, _ in rows if hook == "preempted"]
    assert taken
    assert any(outcome == "its step is in flight" for *_, outcome in rows)


def test_the_log_has_what_was_seen_before_anything_was_done():
    class Reserves(Policy):
        def place(self, view, trigger, subject):
            return (Reserve({"a": 1}), Reserve({"a": 5, "b": 5})) if trigger is Trigger.STALL else ()

    result = simulate([two_turns()], replace(world(), log_decisions=True), Reserves())
    columns = result.decisions.columns
    reserved = [json.loads(seen)["reserved"] for seen in columns["seen"]]
    assert reserved == [{}, {}, {"a": 5, "b": 5}, {"a": 5, "b": 5}]


@given(seconds=st.floats(-1e5, 1e12))
def test_a_policy_is_woken_at_the_first_moment_that_it_waits_for(seconds):
    at = wake_ps(seconds)
    assert at / PS >= seconds > (at - 1) / PS


def test_a_policy_that_waits_for_a_time_between_two_picoseconds_goes_on():
    class Late(Policy):
        until = 0.1 + 0.2

        def admit(self, view, call, need):
            return stock_admit(need) if view.now >= self.until else Verdict.SKIP

        def next_change(self, view):
            return None if view.now >= self.until else (self.until, None)

    result = simulate([one("p", call("c", [Piece("x", 64)], 16))], world(), Late())
    assert result.calls.columns["admitted_s"] == [pytest.approx(0.3)]


def test_a_timer_rings_once_however_often_it_was_set():
    """A policy that sets its next two alarms anew whenever it is asked would otherwise double them each time."""

    class Renews(Policy):
        rang = 0

        def place(self, view, trigger, subject):
            self.rang += trigger is Trigger.TIMER
            assert self.rang < 100
            return (Timer(0.1), Timer(0.2))

    policy = Renews()
    result = simulate([two_turns()], world(), policy)
    assert result.summary["makespan_s"] > 0.2
    assert policy.rang == 2


def test_a_run_is_over_when_its_last_program_is():
    class Plans(Policy):
        asked = 0

        def place(self, view, trigger, subject):
            self.asked += trigger is Trigger.TIMER
            return (Timer(view.now + 1000), Keep(view.now + 500)) if trigger is Trigger.STALL else ()

    host = Host(world(), Plans(), iter([two_turns()]), Knowledge())
    host.run()
    assert host.now_ps == totals(host)["makespan_s"] * PS
    assert "pin_expired" not in host.metrics.counts
    assert not host.placement.stalls
    assert host.pool.free == 100


@pytest.mark.parametrize("engine", [{}, {"jumps": False}, {"async_scheduling": True}])
def test_a_timer_may_count_steps(engine):
    class Counts(Policy):
        def __init__(self):
            self.rung = []

        def place(self, view, trigger, subject):
            if trigger is Trigger.QUEUED:
                return Timer(steps=3), Timer(steps=3), Timer(steps=10), Timer(steps=10**9)
            if trigger is Trigger.TIMER:
                self.rung.append(view.step)
                return (Timer(steps=100),) if view.step == 10 else ()
            return ()

    policy = Counts()
    simulate([one("p", call("c", [Piece("x", 64)], 200))], world(**engine), policy)
    assert policy.rung == [3, 10, 110]


@pytest.mark.parametrize("timer", [Timer(steps=0), Timer(steps=-1), Timer(0.0)])
def test_a_timer_for_what_has_passed_is_refused(timer):
    class Late(Policy):
        refused = ()

        def observe(self, event, view):
            if event.kind is EventKind.ACTION_REFUSED:
                self.refused += (event.action,)

        def place(self, view, trigger, subject):
            return (timer,) if trigger is Trigger.STALL else ()

    policy = Late()
    simulate([one("p", call("c", [Piece("x", 64)], 4))], world(), policy)
    assert policy.refused == (timer,)


@pytest.mark.parametrize("timer", [Timer(), Timer(0.5, 3), Timer(steps=1.5)])
def test_a_timer_has_a_time_or_a_number_of_steps(timer):
    class Odd(Policy):
        def place(self, view, trigger, subject):
            return (timer,)

    with pytest.raises(HookError, match=r"Odd: place must return .*steps.*, got Timer\("):
        simulate([one("p", call("c", [Piece("x", 64)], 4))], world(), Odd())


def spoil_budget(view, call):
    view.token_budget = 1


def spoil_tier(view, call):
    view.gpu = view.cpu


def spoil_labels(view, call):
    call.labels["depth"] = 0


def spoil_program(view, call):
    call.program.labels["tenant"] = "another"


@pytest.mark.parametrize("spoil", [spoil_budget, spoil_tier, spoil_labels, spoil_program])
def test_a_policy_cannot_write_to_what_it_sees(spoil):
    class Spoils(Policy):
        def order(self, view, waiting):
            spoil(view, waiting[0])
            return waiting

    with pytest.raises(HookError, match=r"Spoils: order raised (AttributeError|TypeError)"):
        simulate([one("p", call("c", [Piece("x", 64)], 4))], world(), Spoils())
