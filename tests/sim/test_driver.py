"""What a host refuses of its programs, one line each: hosts and policies know calls by ``<program>/<node>``."""

from dataclasses import replace

import pytest

from tokencake.policies.api import Policy
from tokencake.sim.config import ConfigError, EngineConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, Program

CONFIG = SimConfig(EngineConfig(100), LinearLatency(LinearCoefficients(1000)), 1000)


def program(name, node, at_s=0.0):
    return Program(name, "app", at_s, (LLMNode(node, (), "a", "a", (Piece("x", 40),), 5),))


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ([program("a", "b/c"), program("a/b", "c")], "program 'a/b': nodes[0].id: must not make a/b/c, the name of"),
        ([program("a", "b"), program("a", "c")], "program 'a': program: must be unique in the trace, got 'a'"),
        ([program("a", "b", 2.0), program("b", "b", 1.0)], "programs must be in order of arrival: 'b' arrives at 1.0"),
    ],
)
@pytest.mark.parametrize("concurrency", [0, 2])
def test_programs_that_cannot_be_told_apart_or_put_in_order_are_refused(programs, said, concurrency):
    if concurrency and "order" in said:
        pytest.skip("arrival times are not looked at")
    config = replace(CONFIG, workload=replace(CONFIG.workload, concurrency=concurrency))
    with pytest.raises(ConfigError) as caught:
        simulate(programs, config, Policy())
    assert str(caught.value).startswith(said)


def test_slashes_alone_are_no_harm():
    programs = [program("a", "b/c"), program("a/b", "d"), program("b", "b/c")]
    assert simulate(programs, CONFIG, Policy()).summary["calls"] == 3
