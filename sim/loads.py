"""Loads on hit: a waiting call whose next blocks are in the CPU tier gets GPU blocks and waits for the copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.sim.calls import Call, Status
from tokencake.sim.clock import Priority
from tokencake.sim.parts import Parts, count_blocks, count_runs
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.sim.host import Host


class Loads:
    """Copies to the GPU for calls that start."""

    def __init__(self, host: Host):
        self._host = host
        self._begun: list[Transfer] = []

    def find(self, call: Call, gpu_hit: int) -> int | None:
        """Blocks after a GPU hit that can be loaded; None: ask again later."""
        if call.stores:
            return None
        chain, cpu = call.holding.chain, self._host.cpu
        limit = call.tokens // self._host.config.engine.block_size
        found, pending = cpu.match(chain, gpu_hit, limit)
        if pending or (found and cpu.being_read(chain, gpu_hit, gpu_hit + found)):
            return None
        return found

    def begin(self, call: Call, gpu_hit: int, blocks: int) -> None:
        """Give a waiting call the GPU blocks for its CPU hit; the step being planned starts to fill them."""
        host = self._host
        host.pool.take(call.holding, blocks)
        size = host.config.engine.block_size
        end = gpu_hit + blocks
        call.computed = min(end * size, call.tokens)
        call.status = Status.LOADING
        call.stored = end
        call.access(gpu_hit, end)
        host.scheduler.loading.append(call)
        parts = host.cpu.begin_load(call.holding.chain, gpu_hit, end)
        call.load = parts
        size_bytes = blocks * host.config.block_bytes
        self._begun.append(Transfer("h2d", size_bytes, count_runs(parts), "load", call, self._loaded))

    def start(self, start_ps: int) -> None:
        """Let the copies start with the step in whose plan they have begun."""
        for transfer in self._begun:
            self._host.clock.at(start_ps, Priority.TRANSFER, self._host.link.start, transfer)
        self._begun.clear()

    def _loaded(self, transfer: Transfer) -> None:
        call = transfer.subject
        assert isinstance(call, Call)
        host = self._host
        parts: Parts = call.load  # type: ignore[assignment]
        host.metrics.transfer(transfer, call, count_blocks(parts))
        host.metrics.late(transfer.finish_ps - transfer.start_ps)

        def done() -> None:
            host.cpu.end_load(parts)
            call.load = None
            call.status = Status.LOADED

        host.notice(done)
