"""Prints, as JSON, a digest of what each of many runs leaves behind; test_compiled.py runs it in its own processes."""

import json
from hashlib import sha256

from tokencake.policies import registry
from tokencake.policies.random_legal import RandomLegal
from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import COMPILED, simulate
from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.generators.synthetic import Demo

TRACES = {
    "demo": list(Demo(programs_count=6, qps=2.0, seed=1, output_tokens=60).programs()),
    "code_writer": list(CodeWriter(programs_count=1, qps=1.0).programs()),
}
SETTINGS = {
    "sync": {"gpu_blocks": 700, "cpu_blocks": 1500},
    "async": {"gpu_blocks": 700, "cpu_blocks": 1500, "async_scheduling": True},
    "no tier": {"gpu_blocks": 900},
    "step by step": {"gpu_blocks": 700, "cpu_blocks": 1500, "jumps": False, "runs": False},
}


def policies():
    """Every policy, and random decisions."""
    for name in registry.names():
        if name != "custom":
            yield name, lambda name=name: registry.create(name, {})
    for seed in range(10):
        yield f"random {seed}", lambda seed=seed: RandomLegal(seed=seed)


def digest(programs, engine, policy):
    """Of all tables and totals of one run."""
    latency = LinearLatency(LinearCoefficients(9000, 90, 0.001, 40, 30, 0.02))
    config = SimConfig(
        EngineConfig(block_size=16, **engine), latency, 200_000, link=LinkConfig(2.0, 2.0, 20.0), log_decisions=True
    )
    result = simulate(programs, config, policy)
    tables = (result.programs, result.calls, result.transfers, result.kv, result.decisions)
    return sha256(repr([result.summary, *(table.columns for table in tables)]).encode()).hexdigest()


def main():
    """Print whether the loop is compiled, and the digests."""
    found = {
        f"{trace}, {setting}, {name}": digest(TRACES[trace], SETTINGS[setting], make())
        for trace in TRACES
        for setting in SETTINGS
        for name, make in policies()
    }
    print(json.dumps({"compiled": COMPILED, "digests": found}))


if __name__ == "__main__":
    main()
