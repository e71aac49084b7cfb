"""Settings of the live engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLOCKS: Final = ("warp", "wall")
COPIES: Final = ("measured", "link")


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """How a model is run, and which time counts.

    Attributes:
        model: ``xs``, ``s``, ``m`` (built here) or a model folder.
        dtype: vLLM's number format; ``auto`` is the model's own.
        load_format: vLLM's; ``dummy`` makes up the weights.
        clock: ``warp``: the clock advances by the CPU time of each step (wall time, with a GPU) and
            skips idle time; ``wall``: the machine's clock, and tools really take their time.
        copies: A copy between the tiers takes the time that it is ``measured`` to take, or what the
            configured ``link`` says.
        repeat: Tells repeats of one run apart; changes nothing.
    """

    model: str = "s"
    dtype: str = "auto"
    load_format: str = "auto"
    clock: str = "warp"
    copies: str = "measured"
    repeat: int = 0

    def __post_init__(self) -> None:
        for name, known in (("clock", CLOCKS), ("copies", COPIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"live.{name} must be one of {', '.join(known)}, got {getattr(self, name)}")
