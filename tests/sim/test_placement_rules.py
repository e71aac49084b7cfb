"""Rules of placement, liveness and bounds on cases small enough to work out by hand."""

import pytest

from small import call, one, two_turns, world
from tokencake.policies.api import (
    Cancel,
    Drop,
    EventKind,
    Hold,
    Keep,
    Offload,
    Park,
    Policy,
    Preempt,
    Prefetch,
    Reserve,
    Timer,
    Trigger,
    Verdict,
    stock_admit,
)
from tokencake.sim.config import StuckError
from tokencake.sim.run import simulate
from tokencake.traces.schema import Piece


def test_what_outlives_the_last_program_is_in_no_mean():
    class KeepAtTheEnd(Policy):
        def place(self, view, trigger, subject):
            return (Keep(view.now + 100),) if trigger is Trigger.STALL else ()

    summary = simulate([one("p", call("c", [Piece("x", 64)], 16))], world(), KeepAtTheEnd()).summary
    assert 0 < summary["kv_usage_mean"] <= 1
    assert summary["stalled_kv_gb_s"] == 0


def test_free_recompute_is_equal_with_and_without_jumps():
    programs = [one("a", call("c", [Piece("x", 64)], 100, output_id="a"))]
    programs += [one(n, call("c", [Piece("x", 64)], 100, output_id=n), at=1.0) for n in "bc"]
    runs = [
        simulate(programs, world(free_recompute=True, max_num_batched_tokens=16, jumps=jumps), Policy())
        for jumps in (True, False)
    ]
    assert runs[0].calls.columns == runs[1].calls.columns
    assert runs[0].summary == runs[1].summary


def test_free_recompute_knows_what_was_decoded():
    class Forget(Policy):
        def place(self, view, trigger, subject):
            return (Drop(),) if trigger is Trigger.STALL else ()

    columns = simulate([two_turns()], world(free_recompute=True), Forget()).calls.columns
    fresh = simulate([one("p", call("c", [Piece("y", 17)], 16))], world(), Policy()).calls.columns
    # 95 of the 112 tokens were computed before, in whole blocks 80: 32 are computed again, one step.
    assert columns["prefill_s"][1] < fresh["prefill_s"][0] + 0.001


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("blocks", [0, -1])
@pytest.mark.parametrize("action", [Keep, Offload, Prefetch, Hold])
def test_less_than_one_block_is_refused_and_changes_nothing(action, blocks, runs):
    class KeepThenNothing(Policy):
        refused = ()
        pinned = ()

        def observe(self, event, view):
            if event.kind is EventKind.ACTION_REFUSED:
                self.refused += (event.reason,)

        def place(self, view, trigger, subject):
            if trigger is Trigger.STALL and subject.next_calls:
                return Keep(), Timer(view.now + 0.1), Timer(view.now + 0.2)
            if trigger is Trigger.TIMER:
                (stalled,) = view.stalled
                self.pinned += (stalled.pinned_blocks,)
                return (action(blocks=blocks, call=stalled.call.id),)
            return ()

    policy = KeepThenNothing()
    simulate([two_turns()], world(runs=runs, cpu_blocks=50), policy)
    assert policy.pinned == (5, 5)
    assert policy.refused == (f"at least one block is needed, not {blocks}",) * 2


@pytest.mark.parametrize("runs", [True, False])
def test_a_second_keep_lets_go_of_blocks_and_adds_none(runs):
    class KeepLess(Policy):
        pinned = ()

        def place(self, view, trigger, subject):
            if trigger is Trigger.STALL and subject.next_calls:
                return Keep(), Timer(view.now + 0.1), Timer(view.now + 0.2), Timer(view.now + 0.3)
            if trigger is Trigger.TIMER:
                (stalled,) = view.stalled
                self.pinned += (stalled.pinned_blocks,)
                return (Keep(blocks=2 if len(self.pinned) == 1 else 4, call=stalled.call.id),)
            return ()

    policy = KeepLess()
    simulate([two_turns()], world(runs=runs), policy)
    assert policy.pinned == (5, 2, 2)


class Insists(Policy):
    """Asks for the same thing in every step, whatever it was refused."""

    def next_change(self, view):
        return None, view.step + 1


class Reserves(Insists):
    def place(self, view, trigger, subject):
        return (Reserve({"nobody": view.gpu.capacity}),) if trigger is Trigger.STEP else ()


class Keeps(Insists):
    def place(self, view, trigger, subject):
        if trigger is Trigger.STALL:
            return (Keep(),) if subject.next_calls else ()
        return [Keep(call=stalled.call.id) for stalled in view.stalled] if trigger is Trigger.STEP else ()


class Holds(Insists):
    def place(self, view, trigger, subject):
        if trigger is not Trigger.STEP:
            return ()
        return [Hold(view.gpu.free, call=stalled.call.id) for stalled in view.stalled if view.gpu.free]


class Parks(Insists):
    def place(self, view, trigger, subject):
        return [Park(call.program.id) for call in view.waiting] if trigger is Trigger.STEP else ()


@pytest.mark.parametrize("policy", [Reserves, Keeps, Holds, Parks])
def test_what_was_given_up_cannot_be_taken_back_at_once(policy):
    programs = [two_turns(name, tool_s=0.2) for name in "abc"]
    summary = simulate(programs, world(gpu_blocks=8), policy()).summary
    assert summary["calls"] == 6
    assert summary["events"]["actions_refused"] > 0


def test_a_policy_that_lets_nothing_run_for_ever_is_stopped(monkeypatch):
    class Again(Insists):
        """Copies a chain in again and again while another call waits for its memory."""

        def place(self, view, trigger, subject):
            if trigger is Trigger.STALL:
                return (Offload(),) if subject.next_calls else ()
            if trigger is not Trigger.STEP:
                return ()
            chains = [stalled.call.id for stalled in view.stalled if stalled.next_calls]
            return [action(call=name) for name in chains for action in (Drop, Prefetch)]

    monkeypatch.setattr("tokencake.sim.liveness.MOST_IDLE_PLANS", 200)
    programs = [two_turns("p", tool_s=100.0), one("q", call("c", [Piece("q", 64)], 16), at=0.5)]
    with pytest.raises(StuckError, match="let nothing run in 200 plans in a row"):
        simulate(programs, world(gpu_blocks=8, cpu_blocks=50), Again())


def test_parked_programs_are_let_go_although_a_cancelled_copy_would_have_ended_later():
    class ParksAndCancels(Parks):
        def place(self, view, trigger, subject):
            if trigger is Trigger.STALL:
                return Offload(), Cancel()
            return super().place(view, trigger, subject)

    summary = simulate([two_turns(tool_s=0.001)], world(cpu_blocks=50), ParksAndCancels()).summary
    assert summary["calls"] == 2
    assert summary["events"]["parks_lifted"] == 2


def test_an_idle_engine_asks_when_the_policy_says_that_it_changes():
    class Later(Policy):
        def admit(self, view, call, need):
            return Verdict.ADMIT if view.now >= 1.5 else Verdict.SKIP

        def next_change(self, view):
            return (1.5, None) if view.now < 1.5 else None

    columns = simulate([one("p", call("c", [Piece("x", 64)], 8))], world(), Later()).calls.columns
    assert columns["admitted_s"] == [1.5]


def test_a_policy_under_which_nobody_gets_further_is_stopped(monkeypatch):
    class Preempts(Insists):
        def place(self, view, trigger, subject):
            return [Preempt(running.id) for running in view.running] if trigger is Trigger.STEP else ()

    monkeypatch.setattr("tokencake.sim.liveness.MOST_STEPS_IN_VAIN", 50)
    config = world(prefix_caching=False, max_num_batched_tokens=32)
    with pytest.raises(StuckError, match="Preempts had calls preempted in 50 steps in a row"):
        simulate([one("p", call("c", [Piece("x", 64)], 8))], config, Preempts())


class Renews(Policy):
    """Sets its next timer, or the next end of a pin, so much later."""

    def __init__(self, later_s, *, keeps):
        self.later_s, self.keeps = later_s, keeps

    def place(self, view, trigger, subject):
        if trigger is Trigger.STALL and subject.next_calls:
            return [Keep(view.now + self.later_s) if self.keeps else Timer(view.now + self.later_s)]
        if self.keeps and trigger is Trigger.STEP:
            return [Keep(view.now + self.later_s, call=stalled.call.id) for stalled in view.stalled]
        return [Timer(view.now + self.later_s)] if trigger is Trigger.TIMER else []


@pytest.mark.parametrize("keeps", [False, True])
def test_a_policy_that_wakes_itself_for_ever_is_stopped(keeps, monkeypatch):
    monkeypatch.setattr("tokencake.sim.liveness.MOST_WAKES", 200)
    with pytest.raises(StuckError, match="policy Renews had itself woken 200 times in a row"):
        simulate([two_turns(tool_s=100.0)], world(), Renews(1e-9, keeps=keeps))


@pytest.mark.parametrize("keeps", [False, True])
def test_a_policy_may_wake_itself_as_often_as_other_things_happen_in_between(keeps, monkeypatch):
    programs = [two_turns("p", tool_s=100.0), two_turns("q", tool_s=50.0), two_turns("r", tool_s=75.0)]
    free = simulate(programs, world(), Renews(0.25, keeps=keeps))
    monkeypatch.setattr("tokencake.sim.liveness.MOST_WAKES", 620)  # three wake four times a second; no 50 s in a row
    assert simulate(programs, world(), Renews(0.25, keeps=keeps)).summary == free.summary


@pytest.mark.parametrize("asynchronous", [False, True])
def test_finished_calls_can_be_stored(asynchronous):
    class StoreAtTheEnd(Policy):
        store_when = ("finished",)

        def store(self, view, chain, cause):
            assert cause == "finished"
            return chain.blocks

    config = world(cpu_blocks=50, async_scheduling=asynchronous)
    summary = simulate([one("p", call("c", [Piece("x", 64)], 17))], config, StoreAtTheEnd()).summary
    assert summary["d2h_bytes"] == 5 * config.block_bytes


def test_a_reserve_keeps_other_types_out():
    class Half(Policy):
        def place(self, view, trigger, subject):
            return (Reserve({"vip": 5}),) if trigger is Trigger.QUEUED else ()

        def admit(self, view, call, need):
            return stock_admit(need)

    def admitted(policy):
        programs = [
            one("p", call("c", [Piece("p", 48)], 64)),
            one("q", call("c", [Piece("q", 48)], 64)),
            one("v", call("c", [Piece("v", 48)], 64, agent_type="vip")),
        ]
        columns = simulate(programs, world(gpu_blocks=10), policy).calls.columns
        return dict(zip(columns["program"], columns["admitted_s"], strict=True))

    free, reserved = admitted(Policy()), admitted(Half())
    assert free["q"] == 0.0
    assert reserved["p"] == 0.0
    assert reserved["q"] > 0.0


def test_keeping_calls_out_on_purpose_lifts_no_pin():
    class Gate(Policy):
        lifted = 0

        def observe(self, event, view):
            self.lifted += event.kind is EventKind.PIN_LIFTED

        def admit(self, view, call, need):
            return Verdict.SKIP if call.program.id == "late" and view.now < 1.5 else stock_admit(need)

        def place(self, view, trigger, subject):
            return (Keep(),) if trigger is Trigger.STALL and subject.next_calls else ()

    policy = Gate()
    late = one("late", call("c", [Piece("z", 32)], 8), at=0.5)
    result = simulate([two_turns(tool_s=2.0), late], world(), policy)
    assert policy.lifted == 0
    assert result.summary["calls"] == 3


def test_nobody_is_admitted_in_the_step_of_a_forced_preemption():
    class PreemptOnce(Policy):
        done = False
        times = ()

        def observe(self, event, view):
            if event.call == "a/c" and event.kind in (EventKind.CALL_PREEMPTED, EventKind.CALL_ADMITTED):
                self.times += (event.at,)

        def place(self, view, trigger, subject):
            if trigger is Trigger.STEP and len(view.running) == 2 and view.waiting and not self.done:
                self.done = True
                return (Preempt(view.running[0].id),)
            return ()

    programs = [one(name, call("c", [Piece(name, 64)], 200)) for name in "ac"]
    programs.append(one("b", call("c", [Piece("b", 64)], 8), at=0.05))
    policy = PreemptOnce()
    columns = simulate(programs, world(max_num_seqs=2), policy).calls.columns
    row = {name: values[columns["program"].index("a")] for name, values in columns.items()}
    assert row["preemptions"] == 1
    assert policy.times[2] > policy.times[1]  # admitted again, but not at once
    assert 0 < row["recomputed_tokens"] < 64 + 200


@pytest.mark.parametrize("cpu_blocks", [0, 50])
def test_a_call_whose_last_output_is_in_flight_is_not_preempted(cpu_blocks):
    class PreemptLate(Policy):
        reasons = ()

        def observe(self, event, view):
            if event.kind is EventKind.ACTION_REFUSED:
                self.reasons += (event.reason,)

        def place(self, view, trigger, subject):
            late = [call.id for call in view.running if call.output_tokens == 8]
            return [Preempt(name) for name in late] if trigger is Trigger.STEP else ()

        def next_change(self, view):
            return None, view.step + 1

    policy = PreemptLate()
    config = world(async_scheduling=True, cpu_blocks=cpu_blocks)
    summary = simulate([one("p", call("c", [Piece("x", 64)], 8))], config, policy).summary
    assert policy.reasons == ("the call ends with the step in flight",)
    assert summary["preemptions"] == 0


def test_a_policy_that_admits_nothing_is_told_so():
    class Never(Policy):
        def admit(self, view, call, need):
            return Verdict.STOP

    with pytest.raises(StuckError, match="Never admits nothing while 1 calls wait"):
        simulate([one("p", call("c", [Piece("x", 64)], 8))], world(), Never())
