"""The simulator makes vLLM's decisions on recorded workloads, too: coding sessions, conversations, Code-Writer."""

from dataclasses import replace
from functools import partial

import pytest
from cases import Case
from equality import differences

from tokencake.engine.install import missing
from tokencake.policies import registry
from workloads import ALL

REASON = missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, when it is first used
    pytest.mark.slow,
]
POLICIES = (
    "vllm", "vllm-priority", "vllm-offload", "tokencake", "tokencake-upstream", "continuum", "autellix", "random",
)  # fmt: skip


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("workload", ALL, ids=lambda make: make.__name__)
def test_no_decision_differs(workload, name, asynchronous, recorded):
    programs, config = workload(recorded)
    engine = replace(config.engine, async_scheduling=asynchronous, version="0.32")
    case = Case(0, tuple(programs), replace(config, engine=engine))
    assert differences(case, partial(registry.create, name, {}), most=400_000) == []


@pytest.mark.parametrize("workload", ALL, ids=lambda make: make.__name__)
def test_offloading_is_vllms_own_connector(workload, recorded):
    programs, config = workload(recorded)
    case = Case(0, tuple(programs), replace(config, engine=replace(config.engine, version="0.32")))
    make = partial(registry.create, "vllm-offload", {})
    assert differences(case, make, native="fcfs", most=400_000) == []
