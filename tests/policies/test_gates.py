"""thunderagent and concur: programs held back, so that those that run find their KV."""

import pytest

from tokencake.policies.concur import Concur
from tokencake.policies.thunderagent import ThunderAgent
from tokencake.policies.vllm import Vllm
from tokencake.sim.latency.linear import LinearCoefficients

COSTLY = LinearCoefficients(1000, per_prefill_token_us=1000)
GATES = [
    pytest.param(lambda: ThunderAgent(interval_s=0.5), id="thunderagent"),
    pytest.param(lambda: Concur(start=2, interval_s=0.5), id="concur"),
]


@pytest.fixture
def sessions(session, play):
    """Eight conversations that grow from 200 to 376 tokens, on a GPU of 800 (or of what is given)."""

    def run(policy, *, tool_s=0.3, count=8, **engine):
        programs = [session(f"p{i}", tool_s=tool_s, at_s=0.01 * i) for i in range(count)]
        settings = {"latency": COSTLY, "gpu_blocks": 200, "cpu_blocks": 0, "max_num_batched_tokens": 512}
        return play(programs, policy, **settings | engine)

    return run


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_ends_thrashing(sessions, gate):
    """All at once find nothing of their KV when their tools return; two or three at a time find all of it."""
    free, gated = sessions(Vllm()).summary, sessions(gate()).summary
    assert gated["prefill_tokens"]["gpu_hit"] > 2 * free["prefill_tokens"]["gpu_hit"]
    assert gated["makespan_s"] < 0.9 * free["makespan_s"]


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_costs_nothing_where_all_fit(sessions, gate):
    """Two conversations fit into memory and into the window: nobody is held back, and nothing changes."""
    gated, free = (sessions(policy, count=2, gpu_blocks=400) for policy in (gate(), Vllm()))
    assert gated.calls.columns == free.calls.columns


def test_smallest_contexts_are_paused_first(session, play, row):
    """Three programs that act exceed memory together; pausing the smallest is enough."""
    programs = [
        session(f"p{i}", turns=2, prompt=prompt, output=20, tool_s=1.0) for i, prompt in enumerate((240, 200, 300))
    ]
    result = play(programs, ThunderAgent(interval_s=0.9, decay=False), gpu_blocks=270, cpu_blocks=0)
    second = {p: row(result.calls, f"{p}/c1") for p in ("p0", "p1", "p2")}
    assert second["p1"]["admitted_s"] > second["p0"]["admitted_s"]
    assert second["p1"]["admitted_s"] > second["p2"]["admitted_s"]


def test_a_context_decays_while_its_program_acts(session, play, row):
    """A second program fits beside one whose tool has run for long, and not beside one whose KV counts in full."""
    first = session("first", turns=2, prompt=500, tool_s=20.0)
    second = session("second", turns=1, prompt=400, at_s=8.0)
    decayed = play([first, second], ThunderAgent(), gpu_blocks=200, max_num_batched_tokens=512)
    full = play([first, second], ThunderAgent(decay=False), gpu_blocks=200, max_num_batched_tokens=512)
    assert row(decayed.calls, "second/c0")["admitted_s"] == pytest.approx(8.0)
    assert row(full.calls, "second/c0")["admitted_s"] > 20.0


def test_patience_ends(session, play, row):
    first = session("first", turns=2, prompt=500, tool_s=20.0)
    second = session("second", turns=1, prompt=400, at_s=8.0)
    policy = ThunderAgent(decay=False, patience_s=3.0)
    result = play([first, second], policy, gpu_blocks=200, max_num_batched_tokens=512)
    assert 11.0 <= row(result.calls, "second/c0")["admitted_s"] < 16.0


def test_the_window_is_cut_by_thrashing_and_grows_again(sessions):
    thrashing = Concur(start=8, interval_s=0.5)
    sessions(thrashing)
    assert thrashing.window < 8
    calm = Concur(start=1, interval_s=0.2)
    sessions(calm, gpu_blocks=2000)
    assert calm.window > 1


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: ThunderAgent(interval_s=0.0), "interval_s must be > 0"),
        (lambda: Concur(start=0), "start must be >= 1"),
        (lambda: Concur(decrease=1.0), "decrease must be > 0 and < 1"),
        (lambda: Concur(low_hits=2.0), "low_hits must be >= 0 and <= 1"),
    ],
)
def test_parameters_are_checked(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
