"""The simulator makes the decisions of vLLM's own scheduler under every policy: equal runs, byte for byte."""

import os
from dataclasses import replace
from functools import partial

import equality
import pytest
from cases import LivelockError, make_case, with_cpu_tier

from tokencake.engine.install import missing
from tokencake.policies import registry
from tokencake.policies.api import Policy, Reserve, Trigger

REASON = missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, when it is first used
]
MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
BASIC = ("vllm", "vllm-priority", "random")
JUMPS = ({}, {"jumps": False})
MOST = int(os.environ.get("TOKENCAKE_SEEDS", "150"))  # a thousand take an hour


def differences(case, *arguments, **keywords):
    try:
        return equality.differences(case, *arguments, **keywords)
    except LivelockError:
        assert not case.config.engine.reserve_full_isl
        pytest.skip("calls admitted without room for their prompts preempt each other for ever, in vLLM too")


def seeds(quick, most):
    return [*range(quick), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(quick, most))]


def policy(name, seed):
    return partial(registry.create, name, {"seed": seed} if name == "random" else {})


@MODES
@pytest.mark.parametrize("name", BASIC)
@pytest.mark.parametrize("seed", seeds(50, MOST))
def test_no_decision_differs(seed, name, asynchronous):
    assert differences(make_case(seed, asynchronous=asynchronous), policy(name, seed)) == []


@MODES
@pytest.mark.parametrize("name", [name for name in registry.names() if name not in BASIC])
@pytest.mark.parametrize("seed", seeds(10, MOST // 5))
def test_no_decision_differs_under_a_published_policy(seed, name, asynchronous):
    assert differences(make_case(seed, asynchronous=asynchronous), policy(name, seed)) == []


@MODES
@pytest.mark.parametrize("seed", seeds(10, MOST))
def test_priority_is_vllms_own_queue(seed, asynchronous):
    case = make_case(seed, asynchronous=asynchronous)
    assert differences(case, policy("vllm-priority", seed), native="priority") == []


@MODES
@pytest.mark.parametrize("rule", [{"version": "0.22"}, {"prefix_caching": False}, {"reserve_full_isl": False}], ids=str)
def test_a_wrong_rule_is_noticed(rule, asynchronous):
    found = [
        differences(make_case(seed, asynchronous=asynchronous), policy("random", seed), engines=[rule])
        for seed in range(20)
    ]
    assert any(found)


@MODES
@pytest.mark.parametrize("seed", seeds(25, MOST))
def test_no_decision_differs_with_a_cpu_tier(seed, asynchronous):
    case = with_cpu_tier(make_case(seed, asynchronous=asynchronous))
    assert differences(case, policy("random", seed), engines=JUMPS) == []


def test_stores_of_two_preempted_calls_start_in_the_order_in_which_they_were_decided():
    # The last call is preempted first. Its copy may not overtake the other's, which was decided before it.
    case = with_cpu_tier(make_case(703, asynchronous=True))
    assert differences(case, policy("random", 703), engines=JUMPS) == []


def test_outputs_of_a_step_return_one_by_one():
    # When a call ends, and its policy offloads what is on the GPU, the output of a call behind it, which completes one
    # more of the same blocks, is still to come.
    case = with_cpu_tier(make_case(796, asynchronous=True))
    assert differences(case, policy("random", 796), engines=JUMPS) == []


@MODES
@pytest.mark.parametrize("name", [name for name in registry.names() if name != "random"])
@pytest.mark.parametrize("seed", seeds(2, MOST // 5))
def test_no_decision_differs_under_a_published_policy_with_a_cpu_tier(seed, name, asynchronous):
    case = with_cpu_tier(make_case(seed, asynchronous=asynchronous))
    assert differences(case, policy(name, seed), engines=JUMPS) == []


@MODES
@pytest.mark.parametrize("prompt_only", [True, False], ids=["prompts", "outputs"])
@pytest.mark.parametrize("native", ["fcfs", ""], ids=["vllm", "hooks"])
@pytest.mark.parametrize("seed", seeds(8, MOST))
def test_offloading_is_vllms_own_connector(seed, native, prompt_only, asynchronous):
    case = with_cpu_tier(make_case(seed, asynchronous=asynchronous))
    make = partial(registry.create, "vllm-offload", {"prompt_only": prompt_only})
    assert differences(case, make, native=native, engines=JUMPS) == []


class Greedy(Policy):
    """Reserves all memory for an agent type that never comes, whenever it is asked."""

    def place(self, view, trigger, subject):
        return () if trigger is Trigger.PRESSURE else (Reserve({"nobody": view.gpu.capacity}),)

    def next_change(self, view):
        return None, view.step + 1


@MODES
@pytest.mark.parametrize("seed", range(10))
def test_a_reserve_that_takes_all_of_a_tiny_memory_stops_nobody_for_ever(seed, asynchronous):
    case = make_case(seed, asynchronous=asynchronous)
    engine = replace(case.config.engine, reserve_full_isl=True)
    assert equality.differences(replace(case, config=replace(case.config, engine=engine)), Greedy) == []


@MODES
@pytest.mark.parametrize("rule", [{"cpu_blocks": 3}, {"watermark": 0.3}], ids=str)
def test_a_wrong_rule_is_noticed_with_a_cpu_tier(rule, asynchronous):
    cases = [with_cpu_tier(make_case(seed, asynchronous=asynchronous)) for seed in range(10)]
    assert any(differences(case, policy("vllm-offload", 0), native="fcfs", engines=[rule]) for case in cases)
