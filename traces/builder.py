"""TokenCake's frontend: define agents, tools and edges in Python, get a validated program.

>>> app = AppBuilder("code-writer")
>>> architect = app.agent("architect_1", agent_type="architect")
>>> programmer = app.agent("programmer_1", agent_type="programmer")
>>> plan = app.call(architect, prompt=[("system", 95), ("task-{program}", 400)], output_tokens=200)
>>> search = app.func(
...     "search",
...     after=[plan],
...     predict_time=3.5,
...     stages=[Stage("query", 1.0), Stage("embed", 0.5), Stage("generate", 2.5)],
...     result_tokens=390,
... )
>>> code = app.call(
...     programmer,
...     prompt=[plan.prompt, plan.output, search.result, ("ask-code", 16)],
...     output_tokens=400,
...     max_tokens=512,
... )
>>> program = app.program("p0", arrival_s=0.25)
>>> [(node.id, node.after) for node in program.nodes]
[('architect_1', ()), ('search', ('architect_1',)), ('programmer_1', ('architect_1', 'search'))]
>>> program.nodes[1].duration_s
4.0

One application makes as many programs as wanted: ``{program}`` in the name of a content or result
becomes the program's name, so each can have a task of its own; times count from its arrival.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokencake.traces.errors import BadInput
from tokencake.traces.schema import (
    Labels,
    LLMNode,
    Node,
    OutputOf,
    Piece,
    Program,
    PromptOf,
    PromptPart,
    ResultOf,
    Stage,
    ToolNode,
)
from tokencake.traces.validate import validate_program

__all__ = ["Agent", "AppBuilder", "Call", "FuncNode", "Stage"]

_SLOT = "{program}"


@dataclass(frozen=True, slots=True)
class Agent:
    """Who issues calls, and the type that policies keep reservations and scores for."""

    name: str
    agent_type: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was added to an application."""

    id: str

    @property
    def prompt(self) -> PromptOf:
        """The call's whole prompt, as a part of a later prompt."""
        return PromptOf(self.id)

    @property
    def output(self) -> OutputOf:
        """The call's whole output, as a part of a later prompt."""
        return OutputOf(self.id)


@dataclass(frozen=True, slots=True)
class FuncNode:
    """A function call that was added to an application."""

    id: str

    @property
    def result(self) -> ResultOf:
        """The function's result, as a part of a later prompt."""
        return ResultOf(self.id)


PromptItem = PromptPart | tuple[str, int]
OutputItem = Piece | tuple[str, int]


class AppBuilder:
    """An application while it is put together."""

    def __init__(self, app: str) -> None:
        """Start an application without nodes."""
        self.app = app
        self._nodes: dict[str, Node] = {}

    def agent(self, name: str, agent_type: str | None = None) -> Agent:
        """Return an agent; its type is its name unless given."""
        return Agent(name, name if agent_type is None else agent_type)

    def call(
        self,
        agent: Agent,
        *,
        prompt: Sequence[PromptItem],
        output_tokens: int,
        after: Sequence[Call | FuncNode] | None = None,
        id: str | None = None,  # noqa: A002 - the word of the trace format
        max_tokens: int | None = None,
        output: Sequence[OutputItem] | None = None,
        output_id: str | None = None,
        delay_s: float = 0.0,
        at_s: float | None = None,
        importance: float = 0.0,
        critical: bool = False,
        labels: Labels | None = None,
    ) -> Call:
        """Add an LLM call.

        Args:
            agent: who issues it.
            prompt: ``(content, tokens)`` pairs and parts of earlier nodes (``plan.prompt``, ...).
            output_tokens: what it really generates.
            after: what must be done first; by default the nodes that the prompt names.
            id: its name; by default the agent's, with a number when that is taken.
            max_tokens: the declared limit, if any.
            output: what its output is, as ``(content, tokens)`` pairs, for what later prompts hold elsewhere; by
                default it follows from the prompt.
            output_id: makes its output differ from that of calls with the same prompt.
            delay_s: think time before it, in seconds.
            at_s: seconds after the program arrives before which a run with ``workload.calls=timed`` does not start it.
            importance: its weight for the application.
            critical: whether it is on the critical path.
            labels: free facts.

        Raises:
            BadInput: when the id is taken.
        """
        parts = tuple(_piece(item) if isinstance(item, tuple) else item for item in prompt)
        if after is None:
            before = tuple(dict.fromkeys(part.node for part in parts if not isinstance(part, Piece)))
        else:
            before = tuple(node.id for node in after)
        node_id = self._free(agent.name) if id is None else id
        self._add(
            LLMNode(
                id=node_id,
                after=before,
                agent=agent.name,
                agent_type=agent.agent_type,
                prompt=parts,
                output_tokens=output_tokens,
                max_tokens=max_tokens,
                output=None if output is None else tuple(_piece(item) for item in output),
                output_id=output_id,
                delay_s=delay_s,
                at_s=at_s,
                importance=importance,
                critical=critical,
                labels=dict(labels or {}),
            )
        )
        return Call(node_id)

    def func(
        self,
        tool: str,
        *,
        after: Sequence[Call | FuncNode],
        duration_s: float | None = None,
        predict_time: float | None = None,
        stages: Sequence[Stage] = (),
        result_tokens: int = 0,
        result_id: str | None = None,
        id: str | None = None,  # noqa: A002 - the word of the trace format
        delay_s: float = 0.0,
        at_s: float | None = None,
        importance: float = 0.0,
        critical: bool = False,
        labels: Labels | None = None,
    ) -> FuncNode:
        """Add a function call (the paper's FuncNode).

        Args:
            tool: what kind of tool it is.
            after: what must be done first.
            duration_s: how long it really takes; by default the sum of its stages.
            predict_time: the developer's estimate; by default the sum of the stages' estimates, if
                every stage has one.
            stages: its parts, in order.
            result_tokens: length of its result.
            result_id: content of its result; by default unique to this node and program.
            id: its name; by default the tool's, with a number when that is taken.
            delay_s: think time before it, in seconds.
            at_s: seconds after the program arrives before which a run with ``workload.calls=timed`` does not start it.
            importance: its weight for the application.
            critical: whether it is on the critical path.
            labels: free facts.

        Raises:
            BadInput: when the id is taken, or when there are neither a duration nor stages.
        """
        node_id = self._free(tool) if id is None else id
        if duration_s is None:
            if not stages:
                raise BadInput("is required where there are no stages", field=f"{node_id}.duration_s")
            duration_s = math.fsum(stage.duration_s for stage in stages)
        if predict_time is None and stages:
            estimates = [stage.estimate_s for stage in stages if stage.estimate_s is not None]
            if len(estimates) == len(stages):
                predict_time = math.fsum(estimates)
        self._add(
            ToolNode(
                id=node_id,
                after=tuple(node.id for node in after),
                tool=tool,
                duration_s=duration_s,
                estimate_s=predict_time,
                result_tokens=result_tokens,
                result_id=result_id,
                delay_s=delay_s,
                at_s=at_s,
                stages=tuple(stages),
                importance=importance,
                critical=critical,
                labels=dict(labels or {}),
            )
        )
        return FuncNode(node_id)

    def edge(self, before: Call | FuncNode, after: Call | FuncNode) -> None:
        """Make ``after`` wait for ``before`` too."""
        node = self._nodes[after.id]
        if before.id not in node.after:
            self._nodes[after.id] = replace(node, after=(*node.after, before.id))

    def program(self, name: str, *, arrival_s: float = 0.0, labels: Mapping[str, Any] | None = None) -> Program:
        """Return a validated program with the nodes added so far.

        Raises:
            BadInput: naming the field, value and rule of what is wrong.
        """
        nodes = tuple(_of_program(node, name, arrival_s) for node in self._nodes.values())
        return validate_program(Program(name, self.app, arrival_s, nodes, dict(labels or {})))

    def _add(self, node: Node) -> None:
        if node.id in self._nodes:
            raise BadInput("must be unique in the program", field="id", value=node.id)
        self._nodes[node.id] = node

    def _free(self, base: str) -> str:
        name, number = base, 1
        while name in self._nodes:
            number += 1
            name = f"{base}_{number}"
        return name


def _piece(item: OutputItem) -> Piece:
    return item if isinstance(item, Piece) else Piece(*item)


def _of_program(node: Node, program: str, arrival_s: float) -> Node:
    """Return the node with ``{program}`` filled in, and its absolute time."""
    if node.at_s is not None:
        node = replace(node, at_s=round(arrival_s + node.at_s, 6))
    if isinstance(node, ToolNode):
        return node if node.result_id is None else replace(node, result_id=node.result_id.replace(_SLOT, program))
    prompt = tuple(_named(part, program) if isinstance(part, Piece) else part for part in node.prompt)
    output = None if node.output is None else tuple(_named(piece, program) for piece in node.output)
    return replace(node, prompt=prompt, output=output)


def _named(piece: Piece, program: str) -> Piece:
    return Piece(piece.content.replace(_SLOT, program), piece.tokens)
