"""No policy changes what a model says: greedy outputs are those of stock vLLM, one call at a time."""

import pytest
from live_replay import calls_of, config, demo, play, said_greedily

from tokencake.policies import registry
from tokencake.sim.summary import totals
from tokencake.traces.resolve import resolve

POLICIES = [name for name in registry.names() if name != "custom"]


@pytest.fixture(scope="module")
def said(runtime):
    return said_greedily(runtime, demo())


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_the_outputs_of_stock_vllm(runtime, said, policy):
    # Copies take the link's time and are carried out at its end, so that a missing fence spoils an output.
    host = play(runtime, demo(), registry.create(policy, {}), config(blocks=28), said=said, copies="link")
    summary = totals(host)
    assert (summary["programs"], summary["calls"]) == (len(demo()), calls_of(demo()))
    assert summary["prefill_tokens"]["gpu_hit"] > 0, "shared blocks were read"


def test_the_pool_is_too_small_for_all(runtime, said):
    summary = totals(play(runtime, demo(), registry.create("vllm", {}), config(blocks=28), said=said))
    assert summary["preemptions"] > 0
    assert summary["prefill_tokens"]["recomputed"] > 0, "blocks were evicted, and computed again"


def test_blocks_of_the_cpu_tier_were_read(runtime, said):
    host = play(runtime, demo(), registry.create("vllm-offload", {}), config(blocks=28), said=said, copies="link")
    assert totals(host)["prefill_tokens"]["cpu_hit"] > 500


def test_other_outputs_are_noticed(runtime, said):
    ((name, _),) = next(iter(resolve(demo()[0]).values())).output
    other = said | {name: [(said[name][0] + 1) % runtime.model.shape.vocab, *said[name][1:]]}
    with pytest.raises(RuntimeError, match=r"output token 0 of .* is not the trace's"):
        play(runtime, demo()[:1], registry.create("vllm", {}), config(), said=other)


def test_a_run_knows_nothing_of_what_another_one_was_told(runtime, said):
    with pytest.raises(RuntimeError, match="is not the trace's"):
        play(runtime, demo()[:1], registry.create("vllm", {}), config(), said={})
