"""All decoding calls at once.

A decode step does the same to every decoding call: one more token, one more token of context, a
new block every ``block_size`` steps. So the calls are not touched step by step: the set knows how
many they are, their summed context, in which step (modulo the block size) each needs a block, and
in which step the next one ends. A call is brought up to date (:meth:`DecodeSet.sync`) when
something else needs to look at it.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from tokencake.sim.config import NEVER
from tokencake.sim.extents import Holding

if TYPE_CHECKING:
    from tokencake.sim.blocks import BlockPool
    from tokencake.sim.calls import Call
    from tokencake.sim.chains import Chain
    from tokencake.sim.kv import RunPool


@mypyc_attr(allow_interpreted_subclasses=True)
class DecodeSet:
    """Calls that compute one output token in every step.

    Attributes:
        size: Number of calls.
        tick: Steps since the start of the run; the next step is number ``tick``.
        base: Summed context at step 0, had they all been decoding since then.
        boundary: ``boundary[t % block_size]`` calls need a new block in step ``t``.
        lag: Steps in flight when the last one was scheduled (vLLM async scheduling: 1): outputs
            that had not returned yet, whose block could not be hashed.
        next_end: Step after which the first call has computed its last output; `NEVER` if none is to come.
    """

    def __init__(self, pool: RunPool | BlockPool, block_size: int, spare: Holding, *, hashes: bool = True):
        self.size = 0
        self.tick = 0
        self.lag = 0
        self.boundary = [0] * block_size
        self._block_size = block_size
        self._hashes = hashes
        self._pool = pool
        self._spare = spare
        self.base = 0
        self._ends: list[tuple[int, int, int, Call]] = []
        self._joins = 0
        self.last_order = -1
        self.next_end = NEVER

    def context(self) -> int:
        """KV tokens attended in the next step, summed over the calls."""
        return self.base + self.size * self.tick

    def join(self, call: Call) -> None:
        """Add a call whose next token is computed in step ``tick``."""
        tick = self.tick
        call.decoding = True
        call.joined_tick = tick
        call.finish_tick = tick + call.output - call.produced
        self.size += 1
        self.base += call.computed + 1 - tick
        self.boundary[(tick - call.computed) % self._block_size] += 1
        if call.run_order > self.last_order:
            self.last_order = call.run_order
        self._joins += 1
        heapq.heappush(self._ends, (call.finish_tick, call.run_order, self._joins, call))
        if call.finish_tick < self.next_end:
            self.next_end = call.finish_tick
        if self._hashes:
            self.watch(call)

    def leave(self, call: Call) -> None:
        """Bring a call up to date and take it out."""
        self.sync(call)
        self._remove(call)

    def _remove(self, call: Call) -> None:
        self.size -= 1
        self.base -= call.computed + 1 - call.joined_tick
        self.boundary[(call.joined_tick - call.computed) % self._block_size] -= 1
        call.decoding = False
        if not self.size:
            self.last_order = -1
        if call.finish_tick == self.next_end:
            self._find_next_end()
        segment = call.holding.growing
        if segment is not None:
            segment.growers.remove(call)
            call.holding.growing = None

    def sync(self, call: Call) -> None:
        """Bring tokens and blocks of one call up to date."""
        steps = self.tick - call.joined_tick
        # A call that was left out of the step before its last one has no output in flight then.
        late = self.lag if steps > self.lag or call.last_step >= self.tick - 1 - self.lag else 0
        if steps:
            call.computed += steps
            call.produced += steps
            call.joined_tick = self.tick
            call.last_step = self.tick - 1
        holding = call.holding
        missing = -(-call.computed // self._block_size) - holding.hashed - holding.private
        if missing > 0:  # less: preempted after this very plan gave it a block
            self._pool.move(self._spare, holding, missing)
        if not steps or not self._hashes:
            return
        hashed = (call.prompt + call.produced - 1 - late) // self._block_size
        if hashed > holding.hashed:
            for segment, lo, hi in holding.chain.spans:
                if lo < hashed and hi > holding.hashed and len(segment.growers) > 1:
                    self._sync_ahead(call, segment.growers)
            self._pool.grow(holding, hashed)
            self.watch(call)

    def _sync_ahead(self, call: Call, growers: list[Call]) -> None:
        """Hash first what others, further in the same content, have hashed before ``call``."""
        place = (-self._position(call), call.run_order)
        for other in list(growers):
            if other is not call and (-self._position(other), other.run_order) < place:
                self.sync(other)

    def _position(self, call: Call) -> int:
        return call.computed + self.tick - call.joined_tick

    def sync_growers(self, chain: Chain, before: int = NEVER) -> None:
        """Bring up to date every call that is about to hash a block of a chain.

        Args:
            chain: Content of the blocks.
            before: Only calls that run before this place in the running order.
        """
        for segment, _, hi in chain.spans:
            if segment.growers:
                for call in list(segment.growers):
                    if call.holding.hashed < hi and call.run_order < before:
                        self.sync(call)

    @staticmethod
    def shares_content(running: list[Call]) -> bool:
        """Whether a call computes blocks of a segment that another chain passes through too."""
        for call in running:
            segment = call.holding.growing
            if segment is not None and segment.live > 1:
                return True
        return False

    def grows_into(self, chain: Chain) -> bool:
        """Whether a decoding call may hash a block that belongs to a chain as well."""
        return any(call.holding.hashed < hi for segment, _, hi in chain.spans for call in segment.growers)

    def watch(self, call: Call) -> None:
        """Register the call on the segment that its next hashed block will belong to."""
        holding = call.holding
        segment = holding.chain.segment_at(holding.hashed)
        if segment is holding.growing:
            return
        if holding.growing is not None:
            holding.growing.growers.remove(call)
        if segment is not None:
            segment.growers.append(call)
        holding.growing = segment

    def _find_next_end(self) -> None:
        ends = self._ends
        while ends and not (ends[0][3].decoding and ends[0][3].finish_tick == ends[0][0]):
            heapq.heappop(ends)
        self.next_end = ends[0][0] if ends else NEVER

    def pop_ended(self) -> list[Call]:
        """Take out the calls whose last output was computed in the step before ``tick``."""
        ended: list[Call] = []
        while self.next_end == self.tick:
            call = heapq.heappop(self._ends)[3]
            self.leave(call)
            ended.append(call)
        return ended

    def needs(self, steps: int) -> list[int]:
        """New blocks of each of the next ``steps`` steps."""
        size, boundary = self._block_size, self.boundary
        at = self.tick % size
        end = at + steps
        if end <= size:
            return boundary[at:end]
        return (boundary * -(-end // size))[at:end]

    def steps_within(self, blocks: int, limit: int) -> int:
        """Most steps (up to ``limit``) that take at most ``blocks`` new blocks."""
        size = self._block_size
        if not self.size:
            return limit
        rounds = blocks // self.size
        steps = rounds * size
        if steps >= limit:
            return limit
        left = blocks - rounds * self.size
        while steps < limit:
            left -= self.boundary[(self.tick + steps) % size]
            if left < 0:
                return steps
            steps += 1
        return limit
