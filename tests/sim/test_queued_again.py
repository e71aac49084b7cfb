"""What a call waits after a preemption is what a policy sees: from being told of it to being told of the admission."""

import pytest

from small import call, one, world
from tokencake.policies.api import EventKind, Policy, Preempt, Trigger
from tokencake.sim.run import simulate
from tokencake.traces.schema import Piece


class Watches(Policy):
    """Notes preemptions and the admissions after them."""

    def __init__(self):
        self.spans = {}
        self.since = {}

    def observe(self, event, view):
        if event.kind is EventKind.CALL_PREEMPTED:
            self.since[event.call] = event.at
        elif event.kind is EventKind.CALL_ADMITTED and event.call in self.since:
            self.spans.setdefault(event.call, []).append((self.since.pop(event.call), event.at))


class Interrupts(Watches):
    """Preempts calls while their prompts are computed, each once."""

    def place(self, view, trigger, subject):
        if trigger is not Trigger.STEP:
            return ()
        return [
            Preempt(call.id)
            for call in view.running
            if 0 < call.computed_tokens < call.prompt_tokens and not call.preemptions
        ]


def within(spans, start, end):
    return sum(max(0.0, min(b, end) - max(a, start)) for a, b in spans)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("policy", [Watches, Interrupts])
def test_waiting_after_a_preemption_is_part_of_prefill_or_decode(policy, asynchronous):
    programs = [one(f"p{i}", call("c", [Piece(f"p{i}", 300 + 40 * i)], 200), at=0.05 * i) for i in range(8)]
    watching = policy()
    result = simulate(programs, world(async_scheduling=asynchronous), watching)
    columns = result.calls.columns
    names = ("admitted_s", "first_token_s", "finish_s", "prefill_preempted_s", "decode_preempted_s", "decode_s")
    early = late = 0
    for program, *row in zip(columns["program"], *(columns[name] for name in names), strict=True):
        admitted, first, finish, in_prefill, in_decode, decode = row
        spans = watching.spans.get(f"{program}/c", [])
        assert in_prefill == pytest.approx(within(spans, admitted, first))
        assert in_decode == pytest.approx(within(spans, first, finish))
        assert in_decode < decode
        early += in_prefill > 0
        late += in_decode > 0
    assert late
    assert (early > 0) == (policy is Interrupts)
    for name in ("prefill_preempted_s", "decode_preempted_s"):
        assert result.summary[name]["mean"] == pytest.approx(sum(columns[name]) / len(programs))
