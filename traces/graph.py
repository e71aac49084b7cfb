"""The graph rules of a program: dependencies exist, nothing waits for itself, references point back."""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.traces.errors import BadInput
from tokencake.traces.fields import MAX_TOKENS
from tokencake.traces.schema import LLMNode, Node, OutputOf, Piece, PromptOf, PromptPart

MAX_PIECES = 100_000
"""Most pieces that a prompt may have once its references are written out."""


def topological_order(nodes: Sequence[Node]) -> list[int]:
    """Return the indexes of ``nodes`` with every node behind its dependencies.

    Nodes that could come in several orders keep their file order as far as possible: the order is
    breadth first from the roots, ties by index.

    Raises:
        BadInput: for an id that stands twice, a dangling or repeated dependency, or a cycle.
    """
    if len(nodes) == 1 and not nodes[0].after:
        return [0]
    index = _index(nodes)
    missing = [0] * len(nodes)
    followers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for j, dependency in enumerate(node.after):
            field = f"nodes[{i}].after[{j}]"
            if dependency not in index:
                raise BadInput("must name a node of the same program", field=field, value=dependency)
            if dependency in node.after[:j]:
                raise BadInput("must not name a node twice", field=field, value=dependency)
            followers[index[dependency]].append(i)
        missing[i] = len(node.after)
    order = [i for i, left in enumerate(missing) if left == 0]
    for i in order:  # grows while it is walked
        for follower in followers[i]:
            missing[follower] -= 1
            if missing[follower] == 0:
                order.append(follower)
    if len(order) < len(nodes):
        stuck = next(i for i, left in enumerate(missing) if left > 0)
        raise BadInput(
            "must not be part of a dependency cycle", field=f"nodes[{stuck}].after", value=list(nodes[stuck].after)
        )
    return order


def check_graph(nodes: Sequence[Node]) -> None:
    """Check dependencies and prompt references of a program's nodes.

    Raises:
        BadInput: naming the node and field that break a rule.
    """
    order = topological_order(nodes)
    if len(nodes) == 1:
        _check_prompt(nodes, 0, {}, [0], [(0, 0)])
        return
    index = {node.id: i for i, node in enumerate(nodes)}
    ancestors = [0] * len(nodes)  # bit set of node indexes
    sizes = [(0, 0)] * len(nodes)  # tokens and pieces of each prompt
    for i in order:
        for dependency in nodes[i].after:
            j = index[dependency]
            ancestors[i] |= ancestors[j] | 1 << j
        _check_prompt(nodes, i, index, ancestors, sizes)


def _index(nodes: Sequence[Node]) -> dict[str, int]:
    index: dict[str, int] = {}
    for i, node in enumerate(nodes):
        if node.id in index:
            raise BadInput("must be unique in the program", field=f"nodes[{i}].id", value=node.id)
        index[node.id] = i
    return index


def _check_prompt(
    nodes: Sequence[Node], i: int, index: dict[str, int], ancestors: list[int], sizes: list[tuple[int, int]]
) -> None:
    node = nodes[i]
    if not isinstance(node, LLMNode):
        return
    tokens = pieces = 0
    for j, part in enumerate(node.prompt):
        if isinstance(part, Piece):
            tokens += part.tokens
            pieces += 1
            continue
        more = _referenced(part, nodes, index, ancestors[i], sizes, f"nodes[{i}].prompt[{j}]")
        tokens += more[0]
        pieces += more[1]
    if tokens < 1:
        raise BadInput("must have at least 1 token", field=f"nodes[{i}].prompt", value=tokens)
    if tokens > MAX_TOKENS:
        raise BadInput(f"must have at most {MAX_TOKENS} tokens", field=f"nodes[{i}].prompt", value=tokens)
    if pieces > MAX_PIECES:
        raise BadInput(f"must resolve to at most {MAX_PIECES} pieces", field=f"nodes[{i}].prompt", value=pieces)
    sizes[i] = (tokens, pieces)


def _referenced(
    part: PromptPart,
    nodes: Sequence[Node],
    index: dict[str, int],
    ancestors: int,
    sizes: list[tuple[int, int]],
    field: str,
) -> tuple[int, int]:
    """Return tokens and pieces of what a reference stands for, after checking it."""
    assert not isinstance(part, Piece)
    j = index.get(part.node)
    if j is None or not ancestors >> j & 1:
        raise BadInput("must refer to a node that this one comes after", field=field, value=part.node)
    target = nodes[j]
    if isinstance(part, PromptOf | OutputOf):
        if not isinstance(target, LLMNode):
            raise BadInput("must refer to an llm node", field=field, value=part.node)
        if isinstance(part, PromptOf):
            return sizes[j]
        return target.output_tokens, 1 if target.output is None else len(target.output)
    if isinstance(target, LLMNode):
        raise BadInput("must refer to a tool node", field=field, value=part.node)
    return target.result_tokens, 1
