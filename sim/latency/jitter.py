"""Step times that vary as an engine's do, around those of another model.

A schedule near a full memory is chaotic: one preemption more, and everything after it comes differently. Two
live runs of one setting then differ by far more than their step times do, and one simulated run is one
sample of what may happen. Runs with different draws say how far the outcomes scatter, and their mean is a
better forecast than any one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.stepwise import Stepwise
from tokencake.sim.rng import stream


class JitterLatency(Stepwise):
    """`LatencyModel` that multiplies every step's time by a random factor with mean 1.

    The factors are log-normal and independent; the n-th step of a run always has the n-th factor of its seed.
    """

    def __init__(self, base: LatencyModel, deviation: float, seed: int) -> None:
        """Draw around ``base``.

        Args:
            base: Mean times.
            deviation: Standard deviation of the factors' logarithm, > 0; about the relative one of a step's time.
            seed: Which factors are drawn.

        Raises:
            ValueError: The deviation is not between 0 and 1.
        """
        if not 0 < deviation <= 1:
            raise ValueError(f"jitter must be > 0 and <= 1, got {deviation}")
        super().__init__(base)
        self._mean = -(deviation**2) / 2  # of the logarithm, so that the factors' mean is 1
        self._deviation = deviation
        self._seed = seed
        self._draw = stream(seed, "jitter").lognormvariate

    def fresh(self) -> JitterLatency:
        """Return the same factors around a fresh base, from the first one on; see `LatencyModel.fresh`."""
        return JitterLatency(self._base.fresh(), self._deviation, self._seed)

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of the next step; see `LatencyModel.step_ps`."""
        factor = self._draw(self._mean, self._deviation)
        return max(1, round(self._base.step_ps(prefill, decodes, decode_context) * factor))
