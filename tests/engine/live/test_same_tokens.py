"""No policy changes what a model says: greedy outputs are those of stock vLLM, one call at a time."""

import pytest
from live_replay import calls_of, config, demo, play, teach_greedy

from tokencake.policies import registry
from tokencake.traces.resolve import resolve

POLICIES = [name for name in registry.names() if name != "custom"]


@pytest.fixture(scope="module")
def programs(runtime):
    chosen = demo()
    teach_greedy(runtime, chosen)
    return chosen


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_the_outputs_of_stock_vllm(runtime, programs, policy):
    # Copies take the link's time and are carried out at its end, so that a missing fence spoils an output.
    host = play(runtime, programs, registry.create(policy, {}), config(blocks=28), force=False, copies="link")
    summary = host.metrics.summary()
    assert (summary["programs"], summary["calls"]) == (len(programs), calls_of(programs))
    assert summary["prefill_tokens"]["gpu_hit"] > 0, "shared blocks were read"


def test_blocks_of_the_cpu_tier_were_read(runtime, programs):
    host = play(runtime, programs, registry.create("vllm-offload", {}), config(blocks=28), force=False, copies="link")
    assert host.metrics.summary()["prefill_tokens"]["cpu_hit"] > 500


def test_other_outputs_are_noticed(runtime, programs):
    from tokencake.engine import contents

    vocabulary = runtime.model.shape.vocab
    ((name, _),) = next(iter(resolve(programs[0]).values())).output
    said = contents.token_ids(((name, 1),), vocabulary)
    contents.teach(name, [(said[0] + 1) % vocabulary], vocabulary)
    try:
        with pytest.raises(RuntimeError, match=r"output token 0 of .* is not the trace's"):
            play(runtime, programs[:1], registry.create("vllm", {}), config(), force=False)
    finally:
        contents.teach(name, said, vocabulary)
