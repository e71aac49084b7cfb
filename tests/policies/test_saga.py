"""saga: times to live from a fit, eviction by reuse, and the most urgent program first."""

import math

import pytest

from tokencake.policies.api import Event, EventKind
from tokencake.policies.durations import LogNormals
from tokencake.policies.saga import P95, Saga
from tokencake.policies.vllm import Vllm
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.latency.linear import LinearCoefficients
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf

COSTLY = LinearCoefficients(1000, per_prefill_token_us=1000)


def test_quantiles_of_a_log_normal_fit():
    """Of e^1, e^2 and e^3 seconds: median e^2, sigma 1."""
    fits = LogNormals()
    assert fits.quantile("web", P95) is None
    for exponent in (1, 2, 3):
        fits.observe(Event(EventKind.TOOL_FINISHED, 0.0, program="p", tool="web", elapsed_s=math.e**exponent))
    assert fits.quantile("web", 0.0) == pytest.approx(math.e**2)
    assert fits.quantile("web", P95) == pytest.approx(math.e ** (2 + 1.6449))


@pytest.fixture
def case(play, program, turn, call, row):
    """A teacher's tool, then a pupil's, while another call decodes and a third needs nearly all memory."""

    def run(policy, taught_s, tool_s):
        start = taught_s + 1.0
        programs = [
            program("teacher", *turn(16, tool_s=taught_s, content="other")),
            program("pupil", *turn(16, tool_s=tool_s), at_s=start),
            program("busy", call("busy", 4, 40), at_s=start),
            program("flood", call("flood", 100), at_s=start + 0.024),
        ]
        result = play(programs, policy, latency=COSTLY, gpu_blocks=30, cpu_blocks=0)
        return result, row(result.calls, "pupil/second")["gpu_hit_tokens"]

    return run


def test_kv_is_kept_for_as_long_as_the_tool_usually_takes(case):
    assert case(Saga(), 0.010, 0.010)[1] == 16
    assert case(Vllm(), 0.010, 0.010)[1] < 16


def test_a_tool_that_takes_longer_than_ever_is_not_waited_for(case):
    result, hit = case(Saga(), 0.005, 0.5)
    assert hit < 16
    assert result.summary["events"]["pin_expired"] >= 1


def test_pressure_shortens_the_time_to_live(play, program, turn, call, row):
    """The tool takes 20 ms, as always; with nine tenths of memory in use its KV is kept for ten."""
    teacher = program("teacher", *turn(16, tool_s=0.02, content="other"))
    pupil = program("pupil", *turn(16, tool_s=0.02), at_s=1.0)
    hog = program("hog", call("hog", 58, 40), at_s=0.9)
    relaxed = play([teacher, pupil], Saga(), gpu_blocks=30, cpu_blocks=0)
    tight = play([teacher, hog, pupil], Saga(), gpu_blocks=30, cpu_blocks=0, latency=LinearCoefficients(5000))
    assert "pin_expired" not in relaxed.summary["events"]
    assert tight.summary["events"]["pin_expired"] == 1


@pytest.mark.parametrize(("policy", "found"), [(Saga, 16), (Vllm, 0)])
def test_of_two_chains_without_a_future_the_larger_goes_first(play, program, call, row, policy, found):
    """The small one is older, but a quarter of the large one's size; a third call takes memory from one of them."""
    programs = [
        program("small", call("small", 17, content="s")),
        program("large", call("large", 65, content="l"), at_s=0.1),
        program("flood", call("flood", 37), at_s=0.2),
        program("again", call("again", 17, content="s"), at_s=0.3),
    ]
    result = play(programs, policy(), gpu_blocks=24, cpu_blocks=0)
    assert row(result.calls, "again")["gpu_hit_tokens"] == found


@pytest.mark.parametrize(("policy", "again"), [(Saga, 16), (VllmOffload, 0)])
def test_what_will_be_used_again_outlives_what_will_not(play, program, call, row, policy, again):
    """'kept' stalls first and returns; 'done' ends later and never does. LRU gives up the older one."""
    kept = Program(
        "kept",
        "app",
        0.0,
        (
            call("k1", 16, 2),
            LLMNode("k2", ("k1",), "agent", "agent", (PromptOf("k1"), OutputOf("k1"), Piece("x", 4)), 1, delay_s=0.5),
        ),
    )
    done = program("done", call("done", 15, 2), at_s=0.05)
    flood = program("flood", call("flood", 60), at_s=0.1)
    result = play([kept, done, flood], policy(), cpu_blocks=0)
    assert (row(result.calls, "k2")["gpu_hit_tokens"] == 16) == (again == 16)


def test_the_nearest_deadline_goes_first(play, call, row):
    """Equal work, unequal deadlines; the label says which is urgent, once the application's work is known."""

    def make(name, at_s, **labels):
        return Program(name, "app", at_s, (call(name, 8, 10),), labels=labels)

    programs = [make("taught", 0.0), make("busy", 1.0), make("calm", 1.001), make("urgent", 1.002, deadline_s=2.0)]
    urgent, plain = (play(programs, policy(), max_num_seqs=1) for policy in (Saga, Vllm))
    assert row(urgent.calls, "urgent")["admitted_s"] < row(urgent.calls, "calm")["admitted_s"]
    assert row(plain.calls, "urgent")["admitted_s"] > row(plain.calls, "calm")["admitted_s"]


def test_equal_urgency_is_first_come_first_served(play, program, call):
    programs = [program(f"p{i}", call(f"c{i}", 8, 6), at_s=0.0) for i in range(5)]
    fair, plain = (play(programs, policy(), max_num_seqs=1) for policy in (Saga, Vllm))
    assert fair.calls.columns == plain.calls.columns


def test_what_is_missing_is_fetched_when_the_tool_ends(play, program, turn, call, row):
    """The tool outlives its time; by the end its KV is in the CPU tier only, and comes back before it is asked for."""
    first = program("p", *turn(16, tool_s=0.3))
    flood = program("flood", call("flood", 79), at_s=0.1)
    result = play([first, flood], Saga(prior_s=0.001))
    assert "prefetch" in result.transfers.columns["cause"]
    assert row(result.calls, "second")["gpu_hit_tokens"] == 16


@pytest.mark.parametrize(("params", "rule"), [({"deadline_s": 0.0}, "deadline_s"), ({"prior_s": -1.0}, "prior_s")])
def test_parameters_are_checked(params, rule):
    with pytest.raises(ValueError, match=rule):
        Saga(**params)
