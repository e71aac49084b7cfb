"""From references to tokens: what each call's prompt and output really hold.

A resolved prompt is a flat list of ``(content id, tokens)``. A content id names one token stream;
a shorter piece is its prefix. Two rules give outputs and results their names:

* Two calls with the same flat prompt produce the same output, in any program, unless their
  ``output_id`` differs or ``output`` names the content itself. The name is a digest of both.
* A tool result is unique to its node and program unless ``result_id`` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from tokencake.traces.graph import topological_order
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ToolNode

FlatPiece = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Content of one LLM call.

    Attributes:
        prompt: ``(content id, tokens)`` of the prompt; no piece has zero tokens.
        output: the same for the output.
        prompt_tokens: length of the prompt.
    """

    prompt: tuple[FlatPiece, ...]
    output: tuple[FlatPiece, ...]
    prompt_tokens: int


def resolve(program: Program) -> dict[str, Resolved]:
    """Return the content of every LLM node of a valid program, by node id, in file order."""
    nodes = program.nodes
    done: dict[str, Resolved] = {}
    digests: dict[str, blake2b] = {}
    results: dict[str, tuple[FlatPiece, ...]] = {}
    for i in topological_order(nodes):
        node = nodes[i]
        if isinstance(node, ToolNode):
            results[node.id] = _result(program.program, node)
            continue
        prompt = _flat_prompt(node, done, results)
        # A digest of a long conversation continues that of the call it extends.
        digest, fed = _started(node, digests, done)
        _feed(digest, prompt[fed:])
        digests[node.id] = digest
        tokens = sum([piece[1] for piece in prompt])
        done[node.id] = Resolved(prompt, _output(node, digest), tokens)
    return {node.id: done[node.id] for node in nodes if isinstance(node, LLMNode)}


def _flat_prompt(
    node: LLMNode, done: dict[str, Resolved], results: dict[str, tuple[FlatPiece, ...]]
) -> tuple[FlatPiece, ...]:
    flat: list[FlatPiece] = []
    for part in node.prompt:
        if isinstance(part, Piece):
            if part.tokens:
                flat.append((part.content, part.tokens))
        elif isinstance(part, PromptOf):
            flat.extend(done[part.node].prompt)
        elif isinstance(part, OutputOf):
            flat.extend(done[part.node].output)
        else:
            flat.extend(results[part.node])
    return tuple(flat)


def _started(node: LLMNode, digests: dict[str, blake2b], done: dict[str, Resolved]) -> tuple[blake2b, int]:
    """Return a digest that holds the node's leading ``prompt_of``, and the pieces it holds."""
    first = node.prompt[0] if node.prompt else None
    if isinstance(first, PromptOf):
        return digests[first.node].copy(), len(done[first.node].prompt)
    return blake2b(digest_size=12), 0


def _feed(digest: blake2b, pieces: tuple[FlatPiece, ...]) -> None:
    for content, tokens in pieces:
        raw = content.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b%d;" % (len(raw), raw, tokens))


def _output(node: LLMNode, digest: blake2b) -> tuple[FlatPiece, ...]:
    if node.output is not None:
        return tuple([(piece.content, piece.tokens) for piece in node.output if piece.tokens])
    named = digest.copy()
    if node.output_id is not None:
        # No piece starts with "!", so an id cannot be mistaken for one more piece.
        named.update(b"!" + node.output_id.encode("utf-8", "surrogatepass"))
    return (("o:" + named.hexdigest(), node.output_tokens),)


def _result(program: str, node: ToolNode) -> tuple[FlatPiece, ...]:
    if not node.result_tokens:
        return ()
    content = "r:" + (f"{program}/{node.id}" if node.result_id is None else node.result_id)
    return ((content, node.result_tokens),)
