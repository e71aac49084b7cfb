"""Random numbers that depend on a seed and a name, and on nothing else.

Each subsystem draws by name, so that a new policy, or one more draw elsewhere, shifts nothing.
"""

from __future__ import annotations

import random
from hashlib import blake2b


def stream(seed: int, name: str) -> random.Random:
    """An independent generator for ``name``."""
    digest = blake2b(f"{seed}/{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


def lognormal(seed: int, name: str, sigma: float) -> float:
    """One log-normal factor with median 1 for ``name``."""
    return stream(seed, name).lognormvariate(0.0, sigma) if sigma else 1.0
