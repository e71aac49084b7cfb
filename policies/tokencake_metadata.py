"""What TokenCake's applications declare about a call, and the score that its 2026 port makes of it.

The metadata is the authors' (official repository pku-lemonade/TokenCake, ``protocol.py``); traces carry
it as labels under the authors' names, which are used as they stand. A call that carries none of them is
described from its program's declared graph instead (an assumption of ours: the authors' client always
annotates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokencake.policies.api import CallView, ProgramView

SCORE_LABELS = ("depth", "remaining_depth", "in_degree", "out_degree", "similarity", "join_group", "fanout_width")
"""A call with none of these labels is described from the graph."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Declared facts of one call, under the authors' names and with their defaults.

    ``start_offset_s`` is the program's arrival after the first program's; what has elapsed since the
    program's arrival is not declared but looked up when a score is made.
    """

    importance: float = 0.0
    depth: int = 0
    in_degree: int = 0
    out_degree: int = 0
    similarity: float = 0.0
    application_max_depth: int = 0
    remaining_depth: int = 0
    critical_path: bool = False
    near_completion: bool = False
    join_group: str = ""
    dependency_depth: int = 0
    fanout_width: int = 1
    memory_weight: float = 1.0
    offload_eligible: bool = False
    reusable_prefix: bool = False
    start_offset_s: float = 0.0

    @property
    def near(self) -> bool:
        """Whether at most one level of the application follows."""
        return self.near_completion or (self.application_max_depth > 0 and self.remaining_depth <= 1)


class ScoreLine:
    """Request score of the port (``scheduling.py``) as a function of time; higher is served first.

    The terms are summed in the order in which they are published, so that truncation agrees.

    >>> architect = Metadata(importance=2, depth=2, in_degree=1, out_degree=1, similarity=1.0, remaining_depth=15,
    ...     application_max_depth=17, critical_path=True, dependency_depth=2, fanout_width=3)
    >>> ScoreLine(architect).at(elapsed_s=0, wait_s=0)
    817
    """

    __slots__ = ("_elapsed", "_fixed", "_late", "_progress", "_wait")

    def __init__(self, m: Metadata):
        deepest = max(m.depth, m.application_max_depth, 1)
        remaining = min(1.0, m.remaining_depth / deepest)
        distance = 1 / m.similarity if 0 < m.similarity < 1 else 1.0
        self._fixed = (
            100 * m.importance
            + 15 * m.depth
            + 45 * m.out_degree
            + 10 * m.in_degree
            + 20 * m.similarity
            + 20 * m.remaining_depth
            + 120 * (distance - 1)
            + 6 * min(m.start_offset_s, 60.0)
        )
        self._elapsed = 1 + 0.75 * remaining
        self._wait = 1 + 0.5 * remaining
        self._progress = min(1.0, m.depth / deepest)
        self._late = (
            180 * m.critical_path
            + 90 * m.near_completion
            + 20 * bool(m.join_group)
            + 4 * (m.dependency_depth or m.depth)
            + 12 * max(m.fanout_width - 1, 0)
            - 8 * max(m.memory_weight - 1, 0)
        )

    def at(self, elapsed_s: float, wait_s: float) -> int:
        """The score, truncated.

        Args:
            elapsed_s: Since the application started.
            wait_s: Since the call arrived.
        """
        elapsed = elapsed_s if elapsed_s > 0 else 0.0
        wait = wait_s if wait_s > 0 else 0.0
        return int(
            self._fixed
            + 5 * (elapsed if elapsed < 300 else 300) * self._elapsed
            + 8 * (wait if wait < 180 else 180) * self._wait
            + 5 * (elapsed if elapsed < 240 else 240) * self._progress
            + self._late
        )


def metadata(call: CallView, first_arrival_s: float) -> Metadata:
    """What a call declares: its labels, or, without any, its place in the program's graph.

    Args:
        call: The call.
        first_arrival_s: Arrival of the first program, from which start offsets count.
    """
    offset = call.program.arrival_s - first_arrival_s
    labels = call.labels
    if any(name in labels for name in SCORE_LABELS):
        return _labelled(call, labels, offset)
    return _from_graph(call, offset)


def _labelled(call: CallView, labels: Mapping[str, object], offset: float) -> Metadata:
    def number(name: str, default: float) -> float:
        value = labels.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    return Metadata(
        importance=number("importance", call.importance),
        depth=int(number("depth", 0)),
        in_degree=int(number("in_degree", 0)),
        out_degree=int(number("out_degree", 0)),
        similarity=number("similarity", 0.0),
        application_max_depth=int(number("application_max_depth", 0)),
        remaining_depth=int(number("remaining_depth", 0)),
        critical_path=bool(labels.get("critical_path", call.critical)),
        near_completion=bool(labels.get("near_completion", False)),
        join_group=str(labels.get("join_group", "")),
        dependency_depth=int(number("dependency_depth", 0)),
        fanout_width=int(number("fanout_width", 1)),
        memory_weight=number("memory_weight", 1.0),
        offload_eligible=bool(labels.get("offload_eligible", False)),
        reusable_prefix=bool(labels.get("reusable_prefix", False)),
        start_offset_s=offset,
    )


def _from_graph(call: CallView, offset: float) -> Metadata:
    depths, remaining = graph_depths(call.program)
    node = call.node
    followers = call.program.successors(node)
    return Metadata(
        importance=call.importance,
        depth=depths[node],
        in_degree=len(call.program.predecessors(node)),
        out_degree=len(followers),
        application_max_depth=max(depths.values()),
        remaining_depth=remaining[node],
        critical_path=call.critical,
        offload_eligible=bool(followers),
        reusable_prefix=bool(followers),
        start_offset_s=offset,
    )


def graph_depths(program: ProgramView) -> tuple[dict[str, int], dict[str, int]]:
    """Longest paths in nodes, tools included: to each node (first node 1), and from it to an end (last node 0)."""
    order: list[str] = []
    pending = {node: len(program.predecessors(node)) for node in program.nodes}
    ready = [node for node, count in pending.items() if not count]
    depth: dict[str, int] = {}
    for node in ready:
        order.append(node)
        depth[node] = 1 + max((depth[before] for before in program.predecessors(node)), default=0)
        for after in program.successors(node):
            pending[after] -= 1
            if not pending[after]:
                ready.append(after)
    remaining: dict[str, int] = {}
    for node in reversed(order):
        remaining[node] = max((1 + remaining[after] for after in program.successors(node)), default=0)
    return depth, remaining
