"""From block hashes to content streams: exact sharing in a handful of pieces.

Recorded traces name the blocks of a prompt by chained hash ids: an id stands for its block *and*
everything before it. So two prompts share exactly their common id prefix. This module turns each
prompt into a few pieces with the same sharing:

* A prompt that continues an earlier one whole (all the earlier prompt's full blocks are its own
  known prefix) is the earlier prompt, its partial last block included, then the earlier call's
  answer if the prompt grew enough to hold it, then one new stream.
* Any other prompt is the known prefix, cut out of the first prompt that had it, then one new stream.

An earlier call is continued at most once with new blocks: a second prompt that goes on differently
diverges, by its hashes, within the next block, so it shares full blocks only. Thus any two prompts
share at least the tokens of their common blocks and less than one block more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokencake.traces.importers.report import Report
from tokencake.traces.schema import Piece, PromptOf, PromptPart

EXTENDS = "prompt continues an earlier prompt and its answer"
EXTENDS_WITHOUT = "prompt continues an earlier prompt, too short to hold the answer: answer left out"
UNCHAINED = "hash id known after another predecessor: its earlier meaning is kept"


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt as it was mapped: an earlier prompt (``base``) whole, then pieces of its own."""

    node: str
    base: Prompt | None
    own: tuple[Piece, ...]
    tokens: int
    answer: Piece

    def flat(self) -> tuple[Piece, ...]:
        """Return the whole prompt in pieces."""
        parts = [self.own]
        prompt = self.base
        while prompt is not None:
            parts.append(prompt.own)
            prompt = prompt.base
        return tuple([piece for own in reversed(parts) for piece in own])


class HashMap:
    """The prompts of one hash scope, added in the order of time."""

    def __init__(self, scope: str, block_tokens: int, report: Report, *, graph: bool = False) -> None:
        """Start an empty scope.

        Args:
            scope: what the stream names begin with.
            block_tokens: tokens of a block.
            report: where the rules are counted.
            graph: whether it is known which call comes after which; then a prompt continues only
                calls that it comes after. Otherwise it may continue any earlier one.
        """
        self._scope = scope
        self._graph = graph
        self._block = block_tokens
        self._report = report
        self._first: dict[int, Prompt] = {}
        self._ends: dict[int, list[Prompt]] = {}
        self._added = 0

    def add(
        self, node: str, ids: Sequence[int], tokens: int, output_tokens: int, usable: Callable[[Prompt], bool]
    ) -> tuple[Prompt, tuple[PromptPart, ...]]:
        """Map one prompt.

        Args:
            node: id of its LLM node.
            ids: its chained block ids; the last may stand for a partial block.
            tokens: its length, at least 1.
            output_tokens: the length of its answer.
            usable: whether the node comes after an earlier one, so that it may refer to its prompt.

        Returns:
            The mapped prompt and the parts that spell it in a node.
        """
        known = self._known(ids)
        earlier = self._extended(ids, known, tokens, usable)
        if earlier is not None:
            base, own = _upto(earlier, earlier.tokens, usable)
            covered = earlier.tokens
            if tokens - covered >= earlier.answer.tokens:
                own = (*own, earlier.answer)
                covered += earlier.answer.tokens
                self._report.count(EXTENDS)
            elif tokens > covered:
                self._report.count(EXTENDS_WITHOUT)
        elif known:
            source = self._first[ids[known - 1]]
            covered = min(known * self._block, tokens, source.tokens)
            base, own = _upto(source, covered, usable)
        else:
            base, own, covered = None, (), 0
        name = f"{self._scope}/{self._added}"
        self._added += 1
        if tokens > covered:
            own = (*own, Piece(name, tokens - covered))
        prompt = Prompt(node, base, own, tokens, Piece(f"{name}o", output_tokens))
        self._enter(prompt, ids, known)
        return prompt, own if base is None else (PromptOf(base.node), *own)

    def _known(self, ids: Sequence[int]) -> int:
        """Return how many leading ids have been seen."""
        first = self._first
        for i, id_ in enumerate(ids):
            if id_ not in first:
                return i
        return len(ids)

    def _extended(self, ids: Sequence[int], known: int, tokens: int, usable: Callable[[Prompt], bool]) -> Prompt | None:
        """Return the prompt that this one continues whole, or None; claim it if blocks are new."""
        ends = self._ends.get(ids[known - 1], []) if known else []
        fitting = [prompt for prompt in ends if prompt.tokens <= tokens and (not self._graph or usable(prompt))]
        answered = [prompt for prompt in fitting if prompt.tokens + prompt.answer.tokens <= tokens]
        if not fitting:
            return None
        chosen = (answered or fitting)[-1]
        if known < len(ids):
            ends.remove(chosen)
        return chosen

    def _enter(self, prompt: Prompt, ids: Sequence[int], known: int) -> None:
        for id_ in ids[known:]:
            if id_ in self._first:
                self._report.count(UNCHAINED)
            else:
                self._first[id_] = prompt
        full = min(prompt.tokens // self._block, len(ids))
        if full:
            self._ends.setdefault(ids[full - 1], []).append(prompt)


def _upto(prompt: Prompt, tokens: int, usable: Callable[[Prompt], bool]) -> tuple[Prompt | None, tuple[Piece, ...]]:
    """Return the first ``tokens`` tokens of a prompt as a usable base and pieces."""
    while prompt.base is not None and tokens <= prompt.base.tokens:
        prompt = prompt.base
    if tokens == prompt.tokens and usable(prompt):
        return prompt, ()
    base = prompt.base
    own = _cut(prompt.own, tokens - (base.tokens if base else 0))
    while base is not None and not usable(base):
        own = base.own + own
        base = base.base
    return base, own


def _cut(pieces: tuple[Piece, ...], tokens: int) -> tuple[Piece, ...]:
    """Return the first ``tokens`` tokens of some pieces."""
    kept = []
    for piece in pieces:
        if tokens <= 0:
            break
        kept.append(piece if piece.tokens <= tokens else Piece(piece.content, tokens))
        tokens -= piece.tokens
    return tuple(kept)
