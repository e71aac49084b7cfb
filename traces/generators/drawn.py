"""What the generators share: programs that are drawn one by one, and the draft of one program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from tokencake.traces.arrivals import Arrivals
from tokencake.traces.rng import stream
from tokencake.traces.schema import Header, LLMNode, Node, Piece, Program, PromptPart, ToolNode


class Drawn(ABC):
    """Programs in order of arrival; a subclass is a dataclass of parameters that draws one program.

    Attributes:
        generator: name of the generator.
        qps: programs per second.
        programs_count: number of programs.
        seed: seed of everything random.
        arrivals: arrival process.
        cv: coefficient of variation of gamma arrivals.
    """

    __slots__ = ()

    generator: ClassVar[str]
    qps: float
    programs_count: int
    seed: int
    arrivals: str
    cv: float

    def header(self) -> Header:
        """Return the header of the trace."""
        variant = self._variant()
        labels = {"generator": self.generator} | variant | {"qps": self.qps, "seed": self.seed}
        words = (self.generator.replace("_", "-"), *variant.values(), str(self.programs_count), "programs")
        return Header("-".join(words), labels=labels)

    def programs(self) -> Iterator[Program]:
        """Yield the programs in arrival order."""
        yield from self._process().retime(self._program(number) for number in range(self.programs_count))

    def _process(self) -> Arrivals:
        return Arrivals(self.arrivals, self.qps, self.cv, self.seed)

    def _variant(self) -> dict[str, str]:
        """What a trace's name says beside the generator."""
        return {}

    @abstractmethod
    def _program(self, number: int) -> Program:
        """Draw one program; the same one for the same number."""


class Draft:
    """One program while it is drawn; lengths and durations have streams of their own.

    Args:
        app: The application; names contents and streams.
        seed: Seed of the trace.
        name: Name of the program.
        number: Its number in the trace.
        system_tokens: Length of the system prompt that all agents of one type share.
    """

    def __init__(self, app: str, seed: int, name: str, number: int, system_tokens: int) -> None:
        self._app = app
        self._name = name
        self._system_tokens = system_tokens
        self._lengths = stream(seed, f"{app}/lengths/{number}")
        self._durations = stream(seed, f"{app}/durations/{number}")
        self._nodes: list[Node] = []

    def system(self, kind: str) -> Piece:
        """System prompt of an agent type."""
        return self.piece(f"system/{kind}", self._system_tokens)

    def task(self, mean_tokens: int) -> Piece:
        """What the program is about."""
        return self.piece(f"task/{self._name}", self.around(mean_tokens))

    def piece(self, name: str, tokens: int) -> Piece:
        """A text of the application."""
        return Piece(f"{self._app}/{name}", tokens)

    def around(self, mean: int) -> int:
        """Draw a length between half and one and a half times ``mean``, at least 1."""
        return max(1, round(mean * self._lengths.uniform(0.5, 1.5)))

    def call(
        self,
        name: str,
        kind: str,
        after: tuple[str, ...],
        prompt: tuple[PromptPart, ...],
        tokens: int,
        limit: int | None,
        *,
        twin: bool = True,
    ) -> str:
        """Add a call and return its name; a ``twin`` answers in its own words, whatever has the same prompt."""
        output_id = f"{self._name}/{name}" if twin else None
        self._nodes.append(LLMNode(name, after, f"{kind}/{name}", kind, prompt, tokens, limit, output_id=output_id))
        return name

    def tool(
        self, name: str, after: str, tool: str, duration_s: float, estimate_s: float | None, mean_result: int
    ) -> str:
        """Add a tool call with a result of about ``mean_result`` tokens, and return its name."""
        result = self.around(mean_result)
        self._nodes.append(ToolNode(name, (after,), tool, round(duration_s, 6), estimate_s, result))
        return name
