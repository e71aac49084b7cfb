"""A host whose engine is vLLM: everything but scheduling and memory is the simulator's.

Programs, tools, the clock, pins, transfers, reservations, liveness, views and result rows are those of
:class:`tokencake.sim.host.Host`; who runs, with which blocks, is decided by vLLM's own scheduler, KV
manager and block pool (:mod:`tokencake.engine.adapter`). A host says how a planned step is executed
(:meth:`EngineHost.execute`), and that is all that tells a virtual engine from one with a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokencake.engine.adapter import EngineScheduler, EngineStep
from tokencake.engine.contents import Contents
from tokencake.engine.memory import EnginePool
from tokencake.sim.cpu_blocks import BlockCpuTier
from tokencake.sim.host import Host
from tokencake.sim.offload import Offloading

if TYPE_CHECKING:
    from tokencake.engine.scheduler import Asking
    from tokencake.engine.tier import EngineTier
    from tokencake.policies.api import Policy
    from tokencake.sim.calls import Call
    from tokencake.sim.chains import Chain
    from tokencake.sim.config import SimConfig
    from tokencake.sim.knowledge import Knowledge
    from tokencake.sim.step import Step
    from tokencake.traces.schema import Program


class EngineHost(Host, ABC):
    """One vLLM engine, driven by one trace and one policy.

    Args:
        config: Engine, hardware and replay.
        policy: Decides.
        programs: Programs in order of arrival; read lazily.
        knowledge: What the policy may know beyond declarations.
        vllm: A fresh scheduler, as :meth:`tokencake.engine.scheduler.Asking.attach` wants it.
        native: Let vLLM's own queue and connector decide, whatever the policy overrides.
    """

    scheduler: EngineScheduler
    pool: EnginePool
    tree: Contents

    def __init__(
        self,
        config: SimConfig,
        policy: Policy,
        programs: Iterator[Program],
        knowledge: Knowledge,
        vllm: Asking,
        *,
        native: bool = False,
    ):
        self.vllm = vllm
        self._native = native
        super().__init__(config, policy, programs, knowledge)
        self.pool.rank_by(self.pool.evict_key, self.scheduler.calls)
        if self._tier is not None:
            self._tier.rank_by(self.cpu.evict_key, self.scheduler.calls)

    @abstractmethod
    def execute(self, step: EngineStep) -> tuple[Any, int]:
        """Run a planned step, which may have no tokens.

        Returns:
            VLLM's ``ModelRunnerOutput``, and the time that it took in picoseconds.
        """

    def _make_contents(self) -> Contents:
        """What content is in tokens; a host with a model has to keep to its vocabulary."""
        return Contents(self.config.engine.block_size)

    def _make_engine(self) -> None:
        size = self.config.engine.block_size
        self.tree = self._make_contents()
        self.pool = EnginePool(self.vllm.pool, self.tree, size)
        connector = self.vllm.connector
        self._tier: EngineTier | None = None
        if connector is None:
            self.cpu = BlockCpuTier(0, self.tree)
        else:
            from tokencake.engine.tier import EngineTier

            inner = connector.connector_scheduler
            self.cpu = self._tier = EngineTier(inner.manager, self.tree, inner._chunks_being_loaded)
        self.scheduler = EngineScheduler(self.config, self.policy, self.pool, self, self.vllm, native=self._native)
        if connector is None:
            self.offloading = Offloading(self)
        else:
            from tokencake.engine.offloading import EngineOffloading

            self.offloading = EngineOffloading(self, native=self._native)

    def _chain(self, call: Call) -> Chain:
        content = call.program.resolved[call.node.id]
        return self.tree.of(content.prompt, content.output)

    def _run_step(self, step: Step) -> int:
        assert isinstance(step, EngineStep)
        step.result, took_ps = self.execute(step)
        return took_ps

    def _conclude(self, step: Step) -> None:
        assert isinstance(step, EngineStep)
        self.scheduler.deliver(step)
