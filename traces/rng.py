"""Random streams: one per purpose, so that drawing more of one thing never shifts another."""

from __future__ import annotations

import random


def stream(seed: int, purpose: str) -> random.Random:
    """Return the random stream of ``purpose``; equal arguments give equal streams everywhere."""
    return random.Random(f"tokencake/{seed}/{purpose}")
