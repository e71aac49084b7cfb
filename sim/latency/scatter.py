"""Step times that vary as an engine's do, around those of another model.

A schedule near a full memory is chaotic: one preemption more, and everything after it comes differently. Two
live runs of one setting then differ by far more than their step times do, and one simulated run is one
sample of what may happen. Runs with different draws say how far the outcomes scatter, and their mean is a
better forecast than any one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokencake.sim.config import PS
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.stepwise import Stepwise
from tokencake.sim.rng import stream


@dataclass(frozen=True, slots=True)
class Scatter:
    """How far step times lie from what a latency model says, and for how long.

    A step takes the model's time, times a factor of its own, times one that changes slowly: a machine has slow
    steps, and it has slow seconds. Both are log-normal with mean 1.

    Attributes:
        jitter: Standard deviation of the logarithm of each step's own factor; about the relative one of its time.
        drift: The same of the slow factor, whose logarithm is an Ornstein-Uhlenbeck process.
        drift_s: Seconds of computing after which the correlation of the slow factor has fallen to 1/e.

    Raises:
        ValueError: A deviation is not between 0 and 1, or ``drift_s`` is not positive exactly if ``drift`` is.
    """

    jitter: float = 0.0
    drift: float = 0.0
    drift_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("jitter", "drift"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be >= 0 and <= 1, got {getattr(self, name)}")
        if self.drift and not 0 < self.drift_s < math.inf:
            raise ValueError(f"drift_s: must be > 0 and finite with drift, got {self.drift_s}")
        if not self.drift and self.drift_s:
            raise ValueError(f"drift_s: must be 0 without drift, got {self.drift_s}")

    def __bool__(self) -> bool:
        return bool(self.jitter or self.drift)


class ScatterLatency(Stepwise):
    """`LatencyModel` whose steps take random factors of another one's times.

    The n-th step of a run always has the n-th own factor of its seed, and moves the slow one by the n-th draw: exactly,
    whatever the lengths of steps (``x' = a x + sqrt(1 - a^2) z`` with ``a = exp(-t / drift_s)``). The time ``t`` is the
    base's: by their own times, steps of slow seconds would be fewer, and the mean factor of a step less than 1.
    """

    def __init__(self, base: LatencyModel, scatter: Scatter, seed: int) -> None:
        """Draw around ``base``.

        Args:
            base: Mean times.
            scatter: How far and for how long.
            seed: Which factors are drawn.
        """
        super().__init__(base)
        self._scatter = scatter
        self._seed = seed
        self._jitter = scatter.jitter
        self._drift = scatter.drift
        self._mean = -(scatter.jitter**2) / 2  # of the logarithms, so that the factors' mean is 1
        self._slow_mean = -(scatter.drift**2) / 2
        self._own = stream(seed, "jitter").lognormvariate
        self._normal = stream(seed, "drift").normalvariate
        self._slow = 0.0
        self._since_s = math.inf  # since the slow factor was drawn: the first one depends on nothing

    def fresh(self) -> ScatterLatency:
        """Return the same factors around a fresh base, from the first one on; see `LatencyModel.fresh`."""
        return ScatterLatency(self._base.fresh(), self._scatter, self._seed)

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of the next step; see `LatencyModel.step_ps`."""
        mean = self._base.step_ps(prefill, decodes, decode_context)
        factor = self._own(self._mean, self._jitter) if self._jitter else 1.0
        if self._drift:
            factor *= self._slow_factor()
            self._since_s = mean / PS
        return max(1, round(mean * factor))

    def _slow_factor(self) -> float:
        passed = self._since_s / self._scatter.drift_s
        new = math.sqrt(-math.expm1(-2 * passed)) * self._normal(0.0, 1.0)
        self._slow = math.exp(-passed) * self._slow + new
        return math.exp(self._slow_mean + self._drift * self._slow)
