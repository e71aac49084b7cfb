"""The applications' side: programs arrive, nodes wait for each other, tools take their time.

The same driver serves every host: it knows the graph and the clock, not the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from tokencake.sim.calls import Call, ProgramRun
from tokencake.sim.clock import Clock, Priority
from tokencake.sim.config import PS, ConfigError, to_ps
from tokencake.traces.errors import BadInput
from tokencake.traces.schema import LLMNode, Node, Program, ToolNode
from tokencake.traces.unique import Names

if TYPE_CHECKING:
    from tokencake.sim.config import WorkloadConfig


class Engine(Protocol):
    """What the driver tells the engine's side."""

    def program_started(self, run: ProgramRun) -> None:
        """A program arrived."""

    def program_finished(self, run: ProgramRun) -> None:
        """All nodes of a program ended, or it was refused."""

    def call_arrived(self, call: Call) -> None:
        """A call reaches the engine."""

    def tool_started(self, run: ProgramRun, node: ToolNode) -> None:
        """The engine hears that a tool started."""

    def tool_finished(self, run: ProgramRun, node: ToolNode) -> None:
        """The engine hears that a tool ended."""


class Driver:
    """Replays programs against an engine.

    Args:
        clock: Time.
        programs: Programs in order of arrival; read lazily.
        workload: How they are replayed.
        engine: Told about every arrival and tool.

    Attributes:
        programs: Programs under way, by id.
    """

    def __init__(
        self,
        clock: Clock,
        programs: Iterator[Program],
        workload: WorkloadConfig,
        engine: Engine,
    ):
        self.programs: dict[str, ProgramRun] = {}
        self._coming = 0
        self._names = Names()
        self._clock = clock
        self._source = programs
        self._engine = engine
        self._timed = workload.calls == "timed"
        self._delay_ps = to_ps(workload.client_delay_s)
        self._concurrency = workload.concurrency
        self._calls = 0

    @property
    def over(self) -> bool:
        """Whether the last program has ended."""
        return not self.programs and not self._coming

    def start(self) -> None:
        """Schedule the first arrival."""
        for _ in range(self._concurrency or 1):
            self._next_arrival()

    def _finished(self, run: ProgramRun, node: Node) -> None:
        run.finished.append(node.id)
        for follower in run.followers.get(node.id, ()):
            run.pending[follower.id] -= 1
            if not run.pending[follower.id]:
                self._ready(run, follower)
        if len(run.finished) == len(run.nodes):
            self._end(run)

    def refuse(self, run: ProgramRun) -> None:
        """A call of the program cannot run at all: the program ends with what is under way."""
        run.refused = True
        self.ended(run)

    def _end(self, run: ProgramRun) -> None:
        del self.programs[run.program.program]
        if self._concurrency:
            self._next_arrival()
        self._engine.program_finished(run)

    def _next_arrival(self) -> None:
        program = next(self._source, None)
        if program is None:
            return
        try:
            self._names.add(program)
        except BadInput as error:
            raise ConfigError(f"program {program.program!r}: {error}") from None
        now = self._clock.now_ps
        at = now if self._concurrency else to_ps(program.arrival_s)
        if at < now:
            raise ConfigError(
                f"programs must be in order of arrival: {program.program!r} arrives at"
                f" {program.arrival_s} s, after a program of {now / PS} s"
            )
        self._coming += 1
        self._clock.at(at, Priority.ARRIVAL, self._arrive, program)

    def _arrive(self, program: Program) -> None:
        run = ProgramRun(program, self._clock.now_ps)
        self.programs[program.program] = run
        self._coming -= 1
        self._engine.program_started(run)
        for node in program.nodes:
            if not node.after:
                self._ready(run, node, first=True)
        if not self._concurrency:
            self._next_arrival()

    def _ready(self, run: ProgramRun, node: Node, *, first: bool = False) -> None:
        now = self._clock.now_ps
        run.active += 1
        at = now + to_ps(node.delay_s) if node.delay_s else now
        if isinstance(node, LLMNode):
            if not first:
                at += self._delay_ps
            if self._timed and node.at_s is not None:
                at = max(at, to_ps(node.at_s))
            if first and at == now:
                self._call(run, node)
            else:
                self._clock.at(at, Priority.ARRIVAL, self._call, run, node)
            return
        if self._timed and node.at_s is not None:
            at = max(at, to_ps(node.at_s))
        if at == now:
            self._tool(run, node)
        else:
            self._clock.at(at, Priority.TOOL, self._tool, run, node)

    def _call(self, run: ProgramRun, node: LLMNode) -> None:
        if run.refused:
            self.ended(run)
            return
        self._calls += 1
        call = Call(run, node, self._calls, run.prompt_tokens(node))
        call.arrival_ps = self._clock.now_ps
        run.calls[node.id] = call
        self._engine.call_arrived(call)

    def _tool(self, run: ProgramRun, node: ToolNode) -> None:
        if run.refused:
            self.ended(run)
            return
        self._notify(self._tell_started, run, node)
        self._clock.at(self._clock.now_ps + to_ps(node.duration_s), Priority.TOOL, self._tool_ended, run, node)

    def _tell_started(self, run: ProgramRun, node: ToolNode) -> None:
        run.tool_started_ps[node.id] = self._clock.now_ps
        self._engine.tool_started(run, node)

    def _tool_ended(self, run: ProgramRun, node: ToolNode) -> None:
        run.tools += 1
        run.tool_ps += to_ps(node.duration_s)
        self._notify(self._engine.tool_finished, run, node)
        self.ended(run, node)

    def _notify(self, tell: Callable[[ProgramRun, ToolNode], None], run: ProgramRun, node: ToolNode) -> None:
        """Tell the engine of a tool: as late as a call would arrive; at once if nothing follows the tool."""
        if self._delay_ps and run.followers.get(node.id):
            self._clock.at(self._clock.now_ps + self._delay_ps // 2, Priority.TOOL, tell, run, node)
        else:
            tell(run, node)

    def ended(self, run: ProgramRun, node: Node | None = None) -> None:
        """Something under way ended: start what waited for it, or end the program.

        Args:
            run: The program.
            node: What ended; None if it never ran.
        """
        run.active -= 1
        if run.refused:
            if not run.active and run.program.program in self.programs:
                self._end(run)
        elif node is not None:
            self._finished(run, node)
