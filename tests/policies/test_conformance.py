"""Cases that every host must decide alike, and two laws that hold for all policies.

The others of the list have their own files: the free list's order (tests/differential/test_free_list.py), STOP
and SKIP (test_admission_verdicts.py), all memory pinned, OFFLOAD in flight at the return, and PREFETCH of what never
returns (test_kv_actions.py), a time to live against a tool (test_continuum.py).
"""

import pytest

from tokencake.policies import registry
from tokencake.policies.api import Info, Policy
from tokencake.policies.vllm import Vllm
from tokencake.sim.config import LinkConfig
from tokencake.sim.latency.linear import LinearCoefficients

NAMES = [name for name in registry.names() if name != "random"]


def test_two_equal_calls_overflow(play, program, call, row):
    """The last one is preempted and comes before what waited longer; the preempting step admits nobody."""
    programs = [program("p", call("a", 12, 30), call("b", 12, 30)), program("q", call("c", 4, 2), at_s=0.002)]
    result = play(programs, Vllm(), gpu_blocks=12, max_num_seqs=2)
    a, b, c = (row(result.calls, name) for name in "abc")
    assert (a["preemptions"], b["preemptions"], c["preemptions"]) == (0, 1, 0)
    # Both hold six blocks when each needs a seventh, in the step that begins at 13 ms (12 + 12 tokens).
    assert a["finish_s"] == pytest.approx(0.030)
    assert b["recomputed_tokens"] > 0
    assert b["finish_s"] < c["admitted_s"] or b["admitted_s"] < c["admitted_s"]
    assert c["admitted_s"] >= a["finish_s"]  # two places, and 'b' takes the one that it left before 'c' does


def test_the_preempting_step_admits_nobody(play, program, call, row):
    """When 'b' is preempted there is room for 'c'; it starts one step later."""

    class Log(Policy):
        def __init__(self):
            self.asked, self.victims = [], []

        def admit(self, view, call, need):
            self.asked.append((view.step, call.node))
            return super().admit(view, call, need)

        def victim(self, view, need, for_call):
            self.victims.append(view.step)
            return view.running[-1]

    policy = Log()
    programs = [program("p", call("a", 12, 30), call("b", 12, 30)), program("q", call("c", 2, 2), at_s=0.0125)]
    play(programs, policy, gpu_blocks=12)
    (step,) = policy.victims
    assert step not in [s for s, _ in policy.asked]
    assert (step + 1, "b") in policy.asked


@pytest.mark.parametrize(("reserve_full_isl", "start_s"), [(True, 0.02), (False, 0.001)])
def test_a_prompt_that_fits_in_chunks_only(play, program, call, row, reserve_full_isl, start_s):
    """Ten blocks of prompt, eight free, two a step: admitted at once only without the full-input check."""
    programs = [program("p", call("runs", 45, 20)), program("q", call("long", 40, 2), at_s=0.0005)]
    engine = {"gpu_blocks": 20, "reserve_full_isl": reserve_full_isl, "long_prefill_token_threshold": 8}
    result = play(programs, Vllm(), **engine)
    assert row(result.calls, "long")["admitted_s"] == pytest.approx(start_s)


# -- laws ------------------------------------------------------------------------------------------

PREDICTING = [name for name in NAMES if registry.create(name).info is not Info.NONE]
ESTIMATES = {"infercept": {"estimator": "foreseen"}, "continuum": {"samples": 1}}
"""Parameters with which a policy predicts (infercept's elapsed time is no prediction, and no oracle's equal)."""


@pytest.mark.parametrize("level", ["oracle", "class_mean"])
@pytest.mark.parametrize("name", PREDICTING)
def test_without_variance_a_prediction_is_the_truth(session, play, name, level):
    """All tools take 250 ms and all answers have four tokens: after one program has ended, nothing is left to know."""
    programs = [session("warm", tool_s=0.25)]
    programs += [session(f"p{i}", tool_s=0.25, at_s=10.0 + 0.02 * i) for i in range(6)]

    def rows(info):
        policy = registry.create(name, ESTIMATES.get(name, {}) | {"info": info})
        result = play(programs, policy, gpu_blocks=250, cpu_blocks=400, max_num_batched_tokens=512, max_num_seqs=3)
        columns = result.calls.columns
        keep = [i for i, program in enumerate(columns["program"]) if program != "warm"]
        return {key: [values[i] for i in keep] for key, values in columns.items()}

    assert rows("history") == rows(level)


def test_before_anything_has_ended_a_prediction_is_none(session, play):
    """The law above says something: without the warming program, history and oracle decide differently."""
    programs = [session(f"p{i}", tool_s=0.25, at_s=0.02 * i) for i in range(6)]

    def rows(info):
        policy = registry.create("continuum", {"samples": 1, "info": info})
        costly = LinearCoefficients(1000, per_prefill_token_us=2000)
        engine = {"gpu_blocks": 250, "max_num_batched_tokens": 512, "max_num_seqs": 3}
        return play(programs, policy, latency=costly, **engine).decisions.columns

    assert rows("history") != rows("oracle")


CHANGING = {
    "infercept": "limits an iteration to the saturation point",
    "thunderagent": "gates programs",
    "concur": "gates programs",
    "mori": "gates programs",
}
"""Policies that may change a schedule although memory is ample, and how."""


@pytest.mark.parametrize("cpu_blocks", [0, 5000])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHANGING])
def test_ample_memory_leaves_nothing_to_decide(session, play, name, cpu_blocks):
    """Everything fits and nobody waits: keeping, evicting, storing and ordering change no call.

    Copies end at once: a call that hits what the store of an ended call still reads waits for it.
    """
    programs = [session(f"p{i}", tool_s=0.05 * (i % 4), at_s=0.01 * i) for i in range(8)]
    engine = {"gpu_blocks": 5000, "cpu_blocks": cpu_blocks, "max_num_batched_tokens": 4096}
    instant = LinkConfig(free=True)
    result, stock = (play(programs, policy, link=instant, **engine) for policy in (registry.create(name), Vllm()))
    assert result.calls.columns == stock.calls.columns
