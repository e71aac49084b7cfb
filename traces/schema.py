"""The in-memory form of a trace: programs, their nodes and the pieces of their prompts.

Everything here is a frozen value. The objects hold *truths* (``output_tokens``, ``duration_s``) and
*declarations* (``max_tokens``, ``estimate_s``) side by side; which of them a policy may see is the
business of the host that runs it, not of the trace.

The rules that make an object valid are in :mod:`tokencake.traces.validate`; these classes check
nothing, so that reading stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = "tokencake-trace"
VERSION = 1

Labels = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of tokens: the first ``tokens`` tokens of the stream named ``content``.

    One name is one token stream everywhere, across programs too, so two pieces of one name share
    their common length exactly.
    """

    content: str
    tokens: int


@dataclass(frozen=True, slots=True)
class PromptOf:
    """The whole prompt of another LLM node, an ancestor of the node that names it."""

    node: str


@dataclass(frozen=True, slots=True)
class OutputOf:
    """The whole output of another LLM node, an ancestor of the node that names it."""

    node: str


@dataclass(frozen=True, slots=True)
class ResultOf:
    """The whole result of a tool node, an ancestor of the node that names it."""

    node: str


PromptPart = Piece | PromptOf | OutputOf | ResultOf


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a tool call, in order (the paper's query, embed, generate of a RAG tool).

    Attributes:
        name: what the stage does.
        duration_s: how long it really takes, in seconds.
        estimate_s: what the developer declared, in seconds, or None.
    """

    name: str
    duration_s: float
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True)
class LLMNode:
    """One generation of a program (one engine request).

    Attributes:
        id: name, unique in the program.
        after: ids of the nodes that must be done first.
        agent: who issues the call.
        agent_type: the class that reservations and type scores are kept for.
        prompt: pieces and references, in order.
        output_tokens: tokens that the call really generates (truth).
        max_tokens: the declared limit, or None when the application declares none.
        output: content of the output, when it is known; None means that it follows from the prompt
            and ``output_id`` (see :func:`tokencake.traces.resolve.resolve`).
        output_id: calls with equal prompts and different ids produce different outputs.
        delay_s: think time between the last dependency's end and the call's arrival, in seconds.
        at_s: absolute time before which an open-loop run does not issue the call, in seconds.
        importance: the application's own weight for the call, higher is more important.
        critical: whether the call is on the program's critical path, as declared.
        labels: free facts under their authors' names.
    """

    id: str
    after: tuple[str, ...]
    agent: str
    agent_type: str
    prompt: tuple[PromptPart, ...]
    output_tokens: int
    max_tokens: int | None = None
    output: tuple[Piece, ...] | None = None
    output_id: str | None = None
    delay_s: float = 0.0
    at_s: float | None = None
    importance: float = 0.0
    critical: bool = False
    labels: Labels = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ToolNode:
    """One function call between generations.

    Attributes:
        id: name, unique in the program.
        after: ids of the nodes that must be done first.
        tool: what kind of tool it is; estimates are learnt per kind.
        duration_s: how long it really takes, in seconds (truth).
        estimate_s: the developer's ``predict_time`` in seconds, or None.
        result_tokens: length of the result.
        result_id: content of the result; None means unique to this node of this program.
        delay_s: think time between the last dependency's end and the tool's start, in seconds.
        at_s: absolute time before which an open-loop run does not start the tool, in seconds.
        stages: the parts of the call; their durations add up to ``duration_s``.
        importance: the application's own weight for the tool call.
        critical: whether it is on the program's critical path, as declared.
        labels: free facts under their authors' names.
    """

    id: str
    after: tuple[str, ...]
    tool: str
    duration_s: float
    estimate_s: float | None = None
    result_tokens: int = 0
    result_id: str | None = None
    delay_s: float = 0.0
    at_s: float | None = None
    stages: tuple[Stage, ...] = ()
    importance: float = 0.0
    critical: bool = False
    labels: Labels = field(default_factory=dict, hash=False)


Node = LLMNode | ToolNode


@dataclass(frozen=True, slots=True)
class Program:
    """One run of one agent application.

    Attributes:
        program: name, unique in the trace.
        app: which application it is a run of.
        arrival_s: when it arrives, in seconds from the start of the trace.
        nodes: its nodes in file order; a node may stand before its dependencies.
        labels: free facts under their authors' names.
    """

    program: str
    app: str
    arrival_s: float
    nodes: tuple[Node, ...]
    labels: Labels = field(default_factory=dict, hash=False)

    def node(self, node_id: str) -> Node:
        """Return the node named ``node_id``; KeyError when there is none."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a trace file.

    Attributes:
        name: name of the trace.
        version: version of the format.
        labels: free facts about the trace (source, generator, seed, ...).
    """

    name: str
    version: int = VERSION
    labels: Labels = field(default_factory=dict, hash=False)
