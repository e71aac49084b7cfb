"""The simulator as a host for :func:`tokencake.policies.checks.check_policy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokencake.policies.api import Policy
from tokencake.policies.checks import Outcome
from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig
from tokencake.sim.host import Host
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.summary import run_result
from tokencake.traces.generators.synthetic import Demo
from tokencake.traces.schema import Program


class SimHost:
    """Replays programs in the simulator.

    Args:
        programs: Programs in order of arrival.
        config: Engine, hardware and replay.
    """

    def __init__(self, programs: Sequence[Program], config: SimConfig):
        self._programs = programs
        self._config = config

    def run(self, policy: Policy, *, every_step: bool = False) -> Outcome:
        """See :class:`tokencake.policies.checks.Host`; ``every_step`` turns the jumps off."""
        config = self._config
        if every_step:
            config = replace(config, engine=replace(config.engine, jumps=False))
        host = Host(config, policy, iter(self._programs), Knowledge.of(policy.info, self._programs))
        host.run()
        result = run_result(host)
        tables = (result.programs, result.calls, result.transfers, result.kv, result.decisions)
        return Outcome(
            output=repr([table.columns for table in tables] + [result.summary]),
            calls=len(result.calls) - result.summary["refused_calls"],
            finished=result.summary["calls"],
            gpu_blocks=host.pool.capacity,
            gpu_free=host.pool.free,
            cpu_pinned=host.cpu.pinned,
        )


def sim_host() -> SimHost:
    """A small agent workload on an engine that is short of memory, with a CPU tier and a slow link."""
    demo = Demo(
        qps=10.0, programs_count=8, rounds=2, system_tokens=60, task_tokens=120, output_tokens=40, tool_scale=0.1
    )
    config = SimConfig(
        EngineConfig(
            gpu_blocks=75,
            block_size=16,
            cpu_blocks=150,
            max_num_batched_tokens=512,
            max_num_seqs=8,
            max_model_len=1600,
        ),
        LinearLatency(LinearCoefficients(2000, 30, 0.002, 100, 50, 0.5)),
        kv_bytes_per_token=100_000,
        link=LinkConfig(0.2, 0.2, 10.0),
        log_decisions=True,
    )
    return SimHost(tuple(demo.programs()), config)
