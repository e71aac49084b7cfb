"""How the prompts of the Code-Writer application grow: chunks, chains and composition rules.

The rules are named and described in :mod:`tokencake.traces.generators.code_writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokencake.traces.generators.code_writer_table import TEMPLATE_TOKENS, Call
from tokencake.traces.schema import OutputOf, Piece, PromptOf, PromptPart, ResultOf

APP = "code-writer"
NEWLINE = Piece(f"{APP}/newline", 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a chain; chunks with equal keys have equal text."""

    key: str
    parts: tuple[PromptPart, ...]


class Chains:
    """The chains of one program, as they grow call by call."""

    def __init__(self, initial: list[Chunk]) -> None:
        self._initial = initial
        self._inputs: dict[str, list[Chunk]] = {}
        self._chains: dict[str, list[Chunk]] = {}
        self._ancestors: dict[str, list[str]] = {}
        self._texts: dict[tuple[object, ...], str] = {}

    def compose(self, call: Call, rule: str) -> list[Chunk]:
        """Return the chunks of a call's prompt."""
        template = Chunk(
            f"template/{call.template}", (Piece(f"{APP}/template/{call.template}", TEMPLATE_TOKENS[call.template]),)
        )
        before = [self._chains[name] for name in call.predecessors] or [self._initial]
        if rule == "append_shared":
            return [*_merged(before), template]
        if rule == "prepend_shared":
            return [template, *_merged(before)]
        if rule == "same_role" and len(before) == 1 and before[0][0] == template:
            return list(before[0])
        return [template, *(chunk for chain in before for chunk in chain)]

    def as_prompt(self, call: Call, chunks: list[Chunk]) -> tuple[PromptPart, ...]:
        """Return the chunks as a prompt that refers to the longest ancestor's prompt it extends."""
        ancestors = [one for name in call.predecessors for one in (*self._ancestors[name], name)]
        self._ancestors[call.name] = list(dict.fromkeys(ancestors))
        best, covered = "", 0
        for name in self._ancestors[call.name]:
            size = len(self._inputs[name])
            if size > covered and _keys(chunks[:size]) == _keys(self._inputs[name]):
                best, covered = name, size
        rest = [part for chunk in chunks[covered:] for part in chunk.parts]
        return (PromptOf(best), *rest) if best else tuple(rest)

    def finish(self, call: Call, chunks: list[Chunk], keep: bool, output_id: str | None) -> None:
        """Note the call's prompt and extend it by what the call passes on."""
        # The text of a generation follows from its prompt and output id, nothing else.
        text = self._texts.setdefault((*_keys(chunks), output_id), f"generation/{call.name}")
        key, parts = "", list[PromptPart]()
        if keep:
            key, parts = text, [OutputOf(call.name)]
        if call.tool:
            parts += [NEWLINE] if keep else []
            parts.append(ResultOf(tool_id(call.name)))
            key += f"+result/{call.name}"
        self._inputs[call.name] = chunks
        self._chains[call.name] = [*chunks, Chunk(key, tuple(parts))]


def _merged(chains: Sequence[list[Chunk]]) -> list[Chunk]:
    """Return the common chunk prefix of the chains, once, and then the rest of each."""
    common = 0
    for chunks in zip(*chains, strict=False):
        if len({chunk.key for chunk in chunks}) > 1:
            break
        common += 1
    return chains[0][:common] + [chunk for chain in chains for chunk in chain[common:]]


def _keys(chunks: list[Chunk]) -> tuple[str, ...]:
    return tuple(chunk.key for chunk in chunks)


def tool_id(name: str) -> str:
    """Return the id of the tool node that follows the call ``name``."""
    return f"{name}.tool"
