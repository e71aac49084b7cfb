"""lightllm and sglang-lpm: who is admitted, in which order, and how much growth is reckoned with."""

import pytest

from tokencake.policies.lightllm import LightLLM, peak
from tokencake.policies.sglang_lpm import SGLangLPM
from tokencake.policies.vllm import Vllm
from tokencake.traces.schema import LLMNode, Piece

ADMISSIONS = [LightLLM, SGLangLPM]


def declared(name, prompt, output, limit):
    return LLMNode(name, (), "agent", "agent", (Piece(name, prompt),), output, limit)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(10, 5)], 15),
        ([(10, 5), (2, 7)], 16),  # both at the second's end: 5 + 7 + 2 * 2
        ([(2, 7), (10, 5)], 16),
        ([(3, 10), (3, 10), (3, 10)], 39),
        ([(0, 8), (100, 1)], 101),
    ],
)
def test_peak(sizes, expected):
    assert peak(sizes) == expected


@pytest.mark.parametrize("policy", ADMISSIONS)
def test_growth_that_collides_is_not_admitted(play, program, policy):
    """Two calls fit now and overflow later: stock vLLM computes one of them twice, a look at growth waits."""
    programs = [program("p", declared("a", 20, 30, 30), declared("b", 20, 30, 30))]
    stock = play(programs, Vllm(), gpu_blocks=20).summary
    careful = play(programs, policy(), gpu_blocks=20).summary
    assert stock["preemptions"] > 0 and stock["prefill_tokens"]["recomputed"] > 0
    assert careful["preemptions"] == 0 and careful["prefill_tokens"]["recomputed"] == 0


@pytest.mark.parametrize("policy", ADMISSIONS)
def test_a_bound_that_is_never_reached_costs_concurrency(play, program, policy, row):
    """Calls declare 60 tokens and produce four: bounds serialize what would have fit."""
    programs = [program("p", *(declared(f"c{i}", 8, 4, 60) for i in range(4)))]
    bounded, stock = (play(programs, made(), gpu_blocks=20) for made in (policy, Vllm))
    assert bounded.summary["makespan_s"] > stock.summary["makespan_s"]


def test_history_corrects_the_bound(play, program, row):
    """Once calls have ended with four tokens, the next ones are reckoned with four, not with sixty."""
    warm = [program(f"w{i}", declared(f"w{i}", 8, 4, 60), at_s=0.01 * i) for i in range(3)]
    late = program("p", *(declared(f"c{i}", 8, 4, 60) for i in range(4)), at_s=1.0)
    learned = play([*warm, late], LightLLM(estimate="history"), gpu_blocks=20)
    bounded = play([*warm, late], LightLLM(), gpu_blocks=20)
    assert row(learned.calls, "c3")["admitted_s"] == pytest.approx(1.0)
    assert row(bounded.calls, "c3")["admitted_s"] > 1.004


def test_not_busy_is_less_careful(play, program, row):
    """Below the usage mark, a declared 4000 counts as 1024."""
    programs = [program("p", declared("a", 8, 4, 4000), declared("b", 8, 4, 4000))]
    engine = {"gpu_blocks": 600, "max_num_batched_tokens": 512}
    always, never = (play(programs, LightLLM(busy_usage=usage), **engine) for usage in (0.0, 1.0))
    assert row(never.calls, "b")["admitted_s"] == 0.0
    assert row(always.calls, "b")["admitted_s"] > 0.0


def test_the_longest_match_goes_first(play, program, call, row):
    """'hit' came last and finds 40 of its tokens; first come, first served would overwrite them before."""
    first = program("first", call("first", 41, 1, content="shared"))
    busy = program("busy", call("busy", 4, 10), at_s=0.01)
    miss = program("miss", call("miss", 44, 2), at_s=0.011)
    hit = program("hit", call("hit", 44, 2, content="shared"), at_s=0.012)
    programs = [first, busy, miss, hit]
    matched, plain = (play(programs, made(), max_num_seqs=1) for made in (SGLangLPM, Vllm))
    assert row(matched.calls, "hit")["gpu_hit_tokens"] == 40
    assert row(plain.calls, "hit")["gpu_hit_tokens"] < 40
    assert row(matched.calls, "hit")["admitted_s"] < row(matched.calls, "miss")["admitted_s"]


def test_without_matches_or_with_too_many_waiting_it_is_first_come_first_served(play, program, call):
    programs = [program(f"p{i}", call(f"c{i}", 8, 3), at_s=0.001 * i) for i in range(6)]
    matched, plain = (play(programs, made(), max_num_seqs=1) for made in (SGLangLPM, Vllm))
    assert matched.calls.columns == plain.calls.columns
    shared = [program(f"p{i}", call(f"c{i}", 8, 3, content=f"x{i % 2}"), at_s=0.001 * i) for i in range(6)]
    crowded, plain = (play(shared, made, max_num_seqs=1) for made in (SGLangLPM(most_sorted=0), Vllm()))
    assert crowded.calls.columns == plain.calls.columns


def test_the_ratio_falls_and_is_set_by_retraction():
    class Call:
        def __init__(self, out, limit):
            self.output_tokens, self.max_tokens = out, limit

    class View:
        step = 0
        running = (Call(50, 100), Call(10, 300))

    from tokencake.policies.api import Event, EventKind

    policy = SGLangLPM(decay_steps=10)
    assert policy.ratio(View) == pytest.approx(0.7)
    View.step = 5
    assert policy.ratio(View) == pytest.approx((0.7 + 0.14 * 0.7) / 2)
    View.step = 100
    assert policy.ratio(View) == pytest.approx(0.14 * 0.7)
    policy.observe(Event(EventKind.CALL_PREEMPTED, 0.0, program="p", call="p/a"), View)
    assert policy.ratio(View) == pytest.approx((60 + 40) / 400)


def test_the_one_with_fewest_outputs_is_retracted(play, program, row):
    programs = [program("p", declared("old", 30, 60, 60)), program("q", declared("new", 12, 40, 40), at_s=0.01)]
    result = play(programs, SGLangLPM(conservativeness=0.0), gpu_blocks=24)
    assert row(result.calls, "new")["preemptions"] >= 1
    assert row(result.calls, "old")["preemptions"] == 0


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: LightLLM(window=0), "window must be >= 1"),
        (lambda: LightLLM(reserve=1.5), "reserve must be >= 0 and <= 1"),
        (lambda: SGLangLPM(decay_steps=0), "decay_steps must be >= 1"),
        (lambda: SGLangLPM(conservativeness=-1.0), "conservativeness must be >= 0"),
        (lambda: SGLangLPM(most_sorted=-1), "most_sorted must be >= 0"),
    ],
)
def test_parameters_are_checked(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
