"""Blocks of chains, as ranges of segments: what the CPU tier and the copies between the tiers are about."""

from __future__ import annotations

from tokencake.sim.chains import Chain, Segment

Parts = list[tuple[Segment, int, int]]
"""Blocks ``[lo, hi)`` of segments, in the order of a chain."""


def parts_of(chain: Chain, start: int, limit: int) -> Parts:
    """Blocks ``[start, limit)`` of a chain."""
    if len(chain.spans) == 1 and start < limit <= chain.blocks:
        return [(chain.spans[0][0], start, limit)]
    return [(segment, max(lo, start), min(hi, limit)) for segment, lo, hi in chain.spans if hi > start and lo < limit]


def count_blocks(parts: Parts) -> int:
    """Blocks in all."""
    blocks = 0
    for _, lo, hi in parts:
        blocks += hi - lo
    return blocks


def count_runs(parts: Parts) -> int:
    """Stretches of consecutive blocks of a chain."""
    runs, at = 0, -1
    for _, lo, hi in parts:
        runs += lo != at
        at = hi
    return runs
