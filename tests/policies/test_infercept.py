"""infercept: what is kept, swapped and discarded, and what an iteration may compute."""

import pytest

from tokencake.policies.api import Info
from tokencake.policies.infercept import InferCept
from tokencake.policies.vllm import Vllm
from tokencake.sim.config import LinkConfig
from tokencake.sim.latency.linear import LinearCoefficients

COSTLY = LinearCoefficients(4000, per_prefill_token_us=1000)
"""4 ms a step and 1 ms a prompt token: for 18 tokens ChunkDiscard is 22 ms * 18 / 2, and 22 ms for what others hold."""


@pytest.fixture
def case(play, program, turn, call, row):
    """A tool runs while another call decodes and a third, which needs nearly all memory, waits."""

    def run(policy, tool_s, **engine):
        busy = program("busy", call("busy", 4, 60))
        pupil = program("pupil", *turn(16, tool_s=tool_s))
        flood = program("flood", call("flood", 100), at_s=0.03)
        result = play([busy, pupil, flood], policy, **{"latency": COSTLY, "gpu_blocks": 30, "cpu_blocks": 0} | engine)
        return result, row(result.calls, "pupil/second")

    return run


def test_a_short_tool_is_cheaper_to_wait_for(case):
    """10 ms of 18 tokens are less than computing them again: kept, where stock vLLM loses them."""
    assert case(InferCept(), 0.010)[1]["gpu_hit_tokens"] == 16
    assert case(Vllm(), 0.010)[1]["gpu_hit_tokens"] < 16


def test_a_long_tool_is_not(case, row):
    """After some 25 ms, waiting has wasted more than recomputing will: the flood gets the memory."""
    result, second = case(InferCept(), 0.5)
    assert second["gpu_hit_tokens"] < 16
    assert 0.045 < row(result.calls, "flood")["admitted_s"] < 0.065


def test_an_oracle_discards_at_once(case, row):
    """It knows that half a second is too long, and does not wait to find out."""
    oracle = InferCept(estimator="foreseen")
    oracle.info = Info.ORACLE
    result, _ = case(oracle, 0.5)
    assert row(result.calls, "flood")["admitted_s"] < 0.034
    assert result.summary["stalled_kv_gb_s"] < 1e-6


def test_a_free_link_swaps(case):
    """With a CPU tier and a link that moves a chain within an iteration, nothing is kept and nothing computed again."""
    _, second = case(InferCept(), 0.5, cpu_blocks=40, link=LinkConfig(0.1, 0.1))
    assert second["gpu_hit_tokens"] + second["cpu_hit_tokens"] == 16
    assert second["cpu_hit_tokens"] > 0


def test_a_full_cpu_tier_keeps(case):
    """Two blocks of CPU take no chain of four: what cannot be swapped is kept as it was."""
    result, second = case(InferCept(), 0.010, cpu_blocks=2, link=LinkConfig(0.1, 0.1))
    assert second["gpu_hit_tokens"] == 16
    assert result.summary["events"]["actions_refused"] == 1


def test_the_budget_is_the_saturation_point(play, program, call, row):
    """Constant up to 256 tokens, proportional beyond: a long prompt is computed in chunks of about that."""
    from tokencake.policies.infercept import saturation

    class View:
        token_budget = 8192

        class cost:  # noqa: N801
            prefill_time = staticmethod(lambda tokens: max(tokens, 256) / 1e4)

    assert saturation(View) == 256
    result = play([program("p", call("a", 70))], InferCept(saturation_tokens=32), max_num_seqs=4, latency=COSTLY)
    assert row(result.calls, "a")["first_token_s"] == pytest.approx(0.082)  # three steps: 32, 32 and 6 tokens


def test_a_returning_call_goes_ahead_of_newer_programs(play, program, turn, call, row):
    early = program("early", *turn(8, tool_s=0.01))
    late = program("late", call("l1", 8, 30), call("l2", 8, 30), at_s=0.001)
    result = play([early, late], InferCept(), max_num_seqs=1)
    assert row(result.calls, "early/second")["admitted_s"] < row(result.calls, "l2")["admitted_s"]


def test_under_pressure_the_most_wasteful_goes_first(play, program, turn, call, row):
    """Nothing can run while two chains are kept: the one that has wasted most is given up, the other is not."""
    slow = LinearCoefficients(1000, per_prefill_token_us=10**6)
    old, new = program("old", *turn(16, tool_s=60.0)), program("new", *turn(16, tool_s=60.0, content="x"), at_s=20.0)
    needy = program("needy", call("needy", 60), at_s=40.0)
    result = play([old, new, needy], InferCept(), latency=slow, cpu_blocks=0)
    assert row(result.calls, "old/second")["gpu_hit_tokens"] < 16
    assert row(result.calls, "new/second")["gpu_hit_tokens"] == 16


def test_the_victim_is_of_the_latest_program(play, program, call, row):
    """'o2' was admitted last, which is whom stock vLLM preempts; 'new' came last."""
    old = program("old", call("o1", 4, 2), call("o2", 8, 60, after=("o1",)))
    new = program("new", call("n", 8, 60), at_s=0.001)
    for policy, victim, other in ((InferCept(), "new/n", "old/o2"), (Vllm(), "old/o2", "new/n")):
        result = play([old, new], policy, cpu_blocks=0)
        assert row(result.calls, victim)["preemptions"] > 0
        assert row(result.calls, other)["preemptions"] == 0
