"""What a policy may know of durations and lengths at each information level."""

from __future__ import annotations

from collections.abc import Iterable

from tokencake.policies.api import Info
from tokencake.traces.schema import LLMNode, Program


class Knowledge:
    """Means by class: of the whole trace (``class_mean``) or of what has ended so far (``history``).

    Classes are ``tool:<name>`` in seconds and ``output:<agent type>`` in tokens.
    """

    def __init__(self, fixed: dict[str, float] | None = None):
        self._fixed = fixed
        self._sums: dict[str, tuple[float, int]] = {}

    @classmethod
    def of(cls, info: Info, programs: Iterable[Program]) -> Knowledge:
        """What is known before a run.

        Args:
            info: The policy's information level.
            programs: The trace; only class means read it, so that it has to be re-iterable for them alone.
        """
        return cls.of_trace(programs) if info is Info.CLASS_MEAN else cls()

    @classmethod
    def of_trace(cls, programs: Iterable[Program]) -> Knowledge:
        """The class means of a trace."""
        sums: dict[str, tuple[float, int]] = {}
        for program in programs:
            for node in program.nodes:
                if isinstance(node, LLMNode):
                    _add(sums, f"output:{node.agent_type}", float(node.output_tokens))
                else:
                    _add(sums, f"tool:{node.tool}", node.duration_s)
        return cls({group: total / count for group, (total, count) in sums.items()})

    def learn(self, group: str, value: float) -> None:
        """One more value of a class has become known."""
        if self._fixed is None:
            _add(self._sums, group, value)

    def expect(self, group: str) -> float | None:
        """Mean of a class; None if nothing of it is known."""
        if self._fixed is not None:
            return self._fixed.get(group)
        total, count = self._sums.get(group, (0.0, 0))
        return total / count if count else None


def _add(sums: dict[str, tuple[float, int]], group: str, value: float) -> None:
    total, count = sums.get(group, (0.0, 0))
    sums[group] = (total + value, count + 1)
