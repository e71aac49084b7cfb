"""The simulator makes the decisions of vLLM's own scheduler, to the last picosecond."""

import pytest
from cases import Case, LivelockError, make_case
from comparison import differences

from tokencake.engine.install import missing
from tokencake.policies.vllm_priority import VllmPriority
from tokencake.sim.config import EngineConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.traces.generators import GENERATORS

REASON = missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, when it is first used
]

FOUND = [502]  # seeds that once differed
SEEDS = [*range(50), *FOUND, *(pytest.param(s, marks=pytest.mark.slow) for s in range(50, 1050) if s not in FOUND)]
PRIORITY_SEEDS = [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 520))]
MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@MODES
@pytest.mark.parametrize("seed", SEEDS)
def test_first_come_first_served(seed, asynchronous):
    assert differences(make_case(seed, asynchronous=asynchronous)) == []


@MODES
@pytest.mark.parametrize("seed", PRIORITY_SEEDS)
def test_priority_by_program_arrival(seed, asynchronous):
    case = make_case(seed, asynchronous=asynchronous)
    try:
        found = differences(case, VllmPriority(), "priority")
    except LivelockError:
        assert not case.config.engine.reserve_full_isl
        pytest.skip("vLLM itself never finishes this one: calls admitted without room for their prompts")
    assert found == []


@MODES
def test_code_writer(asynchronous):
    trace = GENERATORS["code_writer"](qps=0.5, programs_count=6)
    engine = EngineConfig(gpu_blocks=4000, max_num_batched_tokens=2048, async_scheduling=asynchronous)
    latency = LinearLatency(LinearCoefficients(9000, 90, 0.004, 30, 12, 0.02))
    config = SimConfig(engine, latency, 196608, workload=WorkloadConfig(client_delay_s=0.05))
    assert differences(Case(0, tuple(trace.programs()), config)) == []


@MODES
@pytest.mark.parametrize("rule", [{"version": "0.22"}, {"prefix_caching": False}, {"reserve_full_isl": False}], ids=str)
def test_a_wrong_rule_is_noticed(rule, asynchronous):
    assert any(differences(make_case(seed, asynchronous=asynchronous), **rule) for seed in range(50))
