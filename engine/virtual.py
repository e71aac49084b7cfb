"""The virtual engine: vLLM's own scheduler and memory in simulated time, without a model.

Outputs are the trace's tokens and a step takes the time that a latency model gives it, so that a run
differs from a simulated one in nothing but who decides: here it is vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokencake.engine.adapter import EngineStep
from tokencake.engine.contents import HashedChain
from tokencake.engine.host import EngineHost
from tokencake.engine.scheduler import Asking, PolicyAsyncScheduler, PolicyScheduler
from tokencake.engine.stock import make_scheduler
from tokencake.policies.api import Policy
from tokencake.sim.config import SimConfig
from tokencake.sim.knowledge import Knowledge
from tokencake.traces.schema import Program


class VirtualHost(EngineHost):
    """Executes steps by looking outputs up in the trace."""

    def execute(self, step: EngineStep) -> tuple[Any, int]:
        """See :meth:`EngineHost.execute`."""
        from vllm.v1.outputs import ModelRunnerOutput

        names: list[str] = []
        sampled: list[list[int]] = []
        for call, number in step.outputs:
            chain = call.holding.chain
            assert isinstance(chain, HashedChain)
            names.append(call.id)
            sampled.append([] if number is None else [chain.output[number]])
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: i for i, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        took = self.latency.step_ps(step.prefill, step.decodes, step.context) if step.tokens else 0
        return output, took


def virtual_host(config: SimConfig, policy: Policy, programs: Iterable[Program], *, native: str = "") -> VirtualHost:
    """Return a virtual engine that is ready to run.

    Args:
        config: Engine, hardware and replay.
        policy: A fresh policy object.
        programs: Programs in order of arrival; re-iterable if the policy's level is ``CLASS_MEAN``.
        native: ``"fcfs"`` or ``"priority"``: vLLM's own queue decides, and its own offloading
            connector, instead of the policy's hooks.

    """
    knowledge = Knowledge.of(policy.info, programs)
    vllm = policy_scheduler(config, policy, native=native)
    return VirtualHost(config, policy, iter(programs), knowledge, vllm, native=bool(native))


def policy_scheduler(config: SimConfig, policy: Policy, *, native: str = "") -> Asking:
    """A fresh scheduler of vLLM for a run; arguments as those of `virtual_host`."""
    kind = PolicyAsyncScheduler if config.engine.async_scheduling else PolicyScheduler
    transfer = None
    if config.engine.cpu_blocks:
        from tokencake.engine.offloading import transfer_config

        prompt_only = bool(native) and getattr(policy, "prompt_only", True)
        transfer = transfer_config(config.engine, config.block_bytes, prompt_only=prompt_only)
    scheduler: Asking = make_scheduler(config.engine, native or "fcfs", kind=kind, transfer=transfer)
    return scheduler
