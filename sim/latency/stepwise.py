"""What latency models share whose steps have times of their own, around those of another model."""

from __future__ import annotations

from collections.abc import Mapping

from tokencake.sim.latency.base import LatencyModel


class Stepwise:
    """All of a `LatencyModel` but `fresh` and `step_ps`: what policies ask about costs is answered by ``base``.

    Steps must be asked for one by one (``engine.jumps=false``): no sum of their times is known in advance.

    Args:
        base: The other model.
    """

    def __init__(self, base: LatencyModel) -> None:
        self._base = base

    def decode_cell(self, decodes: int, decode_context: int) -> tuple[int, int, int]:
        """See `LatencyModel.decode_cell`."""
        return self._base.decode_cell(decodes, decode_context)

    def prefill_ps(self, new: int, context: int) -> int:
        """See `LatencyModel.prefill_ps`."""
        return self._base.prefill_ps(new, context)

    def decode_ps(self, decodes: int, decode_context: int) -> int:
        """See `LatencyModel.decode_ps`."""
        return self._base.decode_ps(decodes, decode_context)

    def note_jump(self, steps: int, decodes: int, decode_context: int) -> None:  # noqa: ARG002
        """See `LatencyModel.note_jump`; no step is jumped over.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("steps with times of their own are taken one by one: engine.jumps must be false")

    def outside(self) -> Mapping[str, int]:
        """Return what ``base`` counts."""
        return self._base.outside()
