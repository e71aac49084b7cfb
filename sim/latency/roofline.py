"""A latency model from a model's shape and a device's data sheet.

Sources: the roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009: time is the larger of
work / peak and traffic / bandwidth); FLOPs of a transformer's forward pass (Kaplan et al.,
arXiv 2001.08361, table 1: 2 per weight and token, plus attention). With a chunk of ``n`` tokens
after ``c`` tokens of context, ``pairs = n * c + n * (n + 1) / 2`` and ``T`` tokens in the step:

* layers:            ``max(2 * W * T / F, bytes(W) / B)``
* output projection: ``max(2 * V * R / F, bytes(V) / B)`` for ``R`` calls in the step
* prefill attention: ``max(4 * layers * heads * head_dim * pairs / F, kv_bytes * (c + n) / B)`` per call
* decode attention:  ``max(4 * layers * heads * head_dim / F, kv_bytes / B)`` per token of context

with ``F = peak FLOP/s * compute_efficiency`` and ``B = HBM bytes/s * bandwidth_efficiency``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from tokencake.sim.latency.base import UNBOUNDED, MeasuredRange, Scale
from tokencake.sim.latency.shape import GPUSpec, ModelShape

_PS_PER_S = 10**12


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What share of the data sheet a kernel reaches.

    Attributes:
        compute: Share of the peak FLOP/s, in (0, 1].
        bandwidth: Share of the peak memory bandwidth, in (0, 1].
    """

    compute: float = 0.7
    bandwidth: float = 0.8

    def __post_init__(self) -> None:
        for name, value in (("compute", self.compute), ("bandwidth", self.bandwidth)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}_efficiency must be in (0, 1], got {value}")


class RooflineLatency:
    """`LatencyModel` from the formulas above; it was never measured, so nothing is outside its range."""

    def __init__(
        self, model: ModelShape, gpu: GPUSpec, efficiency: Efficiency | None = None, scale: Scale | None = None
    ) -> None:
        """Turn the formulas' factors into integer picoseconds, rounded up.

        Args:
            model: Shape of the model, all of it on one GPU.
            gpu: Peak rates of the device.
            efficiency: Shares of the peak rates.
            scale: Factors and overhead; none by default.
        """
        efficiency = efficiency or Efficiency()
        self._scale = scale or Scale()
        flops = Fraction(gpu.peak_tflops) * 10**12 * Fraction(efficiency.compute)
        bandwidth = Fraction(gpu.hbm_gb_s) * 10**9 * Fraction(efficiency.bandwidth)

        def compute(work: int) -> int:
            return ceil(work * _PS_PER_S / flops)

        def move(size: int) -> int:
            return ceil(size * _PS_PER_S / bandwidth)

        pair_flops = 4 * model.layers * model.heads * model.head_dim
        self._layers_token = compute(2 * model.layer_parameters)
        self._layers_floor = move(model.layer_parameters * model.dtype_bytes)
        self._head_row = compute(2 * model.head_parameters)
        self._head_floor = move(model.head_parameters * model.dtype_bytes)
        self._pair = compute(pair_flops)
        self._kv_token = move(model.kv_bytes_per_token)
        self._context_token = self._scale.decode(max(self._pair, self._kv_token))

    def fresh(self) -> RooflineLatency:
        """Return itself: it counts and draws nothing."""
        return self

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of one step; see `LatencyModel.step_ps`."""
        time = self._scale.overhead_ps
        alone = self._dense(decodes, decodes) if decodes else 0
        if decodes:
            time += self._scale.decode(alone) + self._context_token * decode_context
        if prefill:
            tokens = decodes
            attention = 0
            for new, context in prefill:
                tokens += new
                pairs = new * context + new * (new + 1) // 2
                attention += max(self._pair * pairs, self._kv_token * (context + new))
            added = self._dense(tokens, decodes + len(prefill)) - alone
            time += self._scale.prefill(added + attention)
        return time

    def decode_cell(self, decodes: int, decode_context: int) -> tuple[int, int, int]:
        """Return the only cell there is; see `LatencyModel.decode_cell`."""
        return self.step_ps((), decodes, decode_context), self._context_token if decodes else 0, UNBOUNDED

    def prefill_ps(self, new: int, context: int) -> int:
        """Return the time of a step with one prefill chunk."""
        return self.step_ps(((new, context),), 0, 0)

    def decode_ps(self, decodes: int, decode_context: int) -> int:
        """Return the time of a decode-only step."""
        return self.step_ps((), decodes, decode_context)

    def note_jump(self, steps: int, decodes: int, decode_context: int) -> None:
        """Do nothing: a formula has no measured range."""

    def outside(self) -> Mapping[str, int]:
        """Return zeros: a formula has no measured range."""
        return dict.fromkeys(MeasuredRange.DIMENSIONS, 0)

    def _dense(self, tokens: int, rows: int) -> int:
        layers = max(self._layers_token * tokens, self._layers_floor)
        return layers + max(self._head_row * rows, self._head_floor)
