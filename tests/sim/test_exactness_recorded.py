"""Fast equals slow on recorded workloads: jumps and runs change no byte of the output."""

import pytest

from tokencake.policies import registry
from tokencake.sim.run import simulate
from workloads import ALL

SLOW = pytest.mark.slow
POLICIES = ("vllm", "vllm-priority", "vllm-offload", "tokencake-upstream", pytest.param("random", marks=SLOW))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", ALL, ids=lambda make: make.__name__)
def test_jumps_and_runs_change_nothing(workload, policy, recorded, with_engine):
    programs, config = workload(recorded)
    results = [
        simulate(programs, with_engine(config, jumps=fast, runs=fast), registry.create(policy, {}))
        for fast in (False, True)
    ]
    assert results[0].summary["steps"] > 500
    slow, fast = (
        repr([table.columns for table in (r.programs, r.calls, r.transfers, r.kv, r.decisions)] + [r.summary])
        for r in results
    )
    assert fast == slow
