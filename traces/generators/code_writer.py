"""The Code-Writer workload of TokenCake's authors, in its four profiles.

A program is 27 model calls and 18 tool calls: a planning spine (architect, search, judge, twice),
three programmers that validate, repair and write, two reviewers, two revisers and a verification
branch. :mod:`tokencake.traces.generators.code_writer_table` holds the facts; this module holds the
rule by which a call's prompt is put together from *chunks*:

* A call's *chain* is the chunks of its prompt and one final chunk: what it generated, and, when a
  tool follows, a newline (1 token) and the tool's result. Some calls pass on the result alone.
* ``append_shared``: the longest common chunk prefix of all predecessor chains, once; then each
  predecessor's remaining chunks in order; then the call's own template.
* ``prepend``: the template, then all chunks of all predecessors.
* ``prepend_shared``: the template, then as ``append_shared``.
* ``same_role``: as ``prepend``, but a chain that already starts with this template is continued.

==================  ======================  ===========  ==================================
profile             instruction output      composition  what an instruction call passes on
==================  ======================  ===========  ==================================
conversation-tools  128                     append       generation and result
conversation        500                     append       generation and result
continuation        500                     prepend      result alone
frozen              500                     prepend      result alone
==================  ======================  ===========  ==================================

The initial context is 95 tokens that all programs share and then the program's own. Templates are
shared by template group; the two search results are each program's own (389 to 402 tokens), every
other tool result is the same for all programs. Tool estimates are exact, ``max_tokens`` is declared
and generated in full.

Assumptions, where the published facts leave a choice:

* Siblings with equal prompts produce equal outputs for the two reviewers only; the three validate
  calls of the programmers and the two of the revisers differ (``output_id``). This reproduces the
  measured mean prompt length.
* Contexts that were not counted are as long as the typical one; ``jitter`` moves each context by up
  to that many tokens and draws the length of each search result. ``jitter=0`` uses the typical
  lengths throughout.
* ``continuation`` differs from ``frozen`` in the five repair calls alone (``same_role``).
* In ``frozen`` and ``continuation`` the two reviser validate calls use ``prepend_shared`` and
  predecessors stand in the order of the table. The reviewers' rule is not published; it is taken as
  ``prepend_shared`` too. With ``prepend`` each reviewer would hold the context three times (mean
  prompt 13,734 tokens against 8,325), and the authors' native ``frozen`` run could not be faster
  than their ``conversation`` run (mean 11,105), which it is. ``frozen_reviewers`` chooses.
* Re-tokenization of generated text is ignored.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from tokencake.traces.generators.code_writer_table import (
    CALLS,
    CONTEXT_TOKENS,
    HEADER_TOKENS,
    INSTRUCTION_TOKENS,
    MAX_DEPTH,
    SEARCH_TOKENS,
    SEEN_CONTEXT_TOKENS,
    Call,
)
from tokencake.traces.generators.composition import APP, Chains, Chunk, tool_id
from tokencake.traces.generators.drawn import Drawn
from tokencake.traces.generators.params import check_choice, check_count
from tokencake.traces.rng import stream
from tokencake.traces.schema import (
    LLMNode,
    Node,
    Piece,
    Program,
    ToolNode,
)

PROFILES = ("conversation-tools", "conversation", "continuation", "frozen")


@dataclass(frozen=True, slots=True)
class CodeWriter(Drawn):
    """Parameters of the Code-Writer workload.

    Attributes:
        profile: one of ``PROFILES``.
        qps: programs per second.
        programs_count: number of programs.
        seed: seed of lengths and of random arrivals.
        arrivals: arrival process (``uniform`` is the authors': number / qps).
        cv: coefficient of variation of gamma arrivals.
        jitter: by how many tokens a context may differ from its known length; 0 fixes all lengths.
        frozen_reviewers: composition of the reviewers in ``frozen`` and ``continuation``.
    """

    generator: ClassVar[str] = "code_writer"

    profile: str = "conversation-tools"
    qps: float = 1.0
    programs_count: int = 24
    seed: int = 0
    arrivals: str = "uniform"
    cv: float = 2.0
    jitter: int = 1
    frozen_reviewers: str = "prepend_shared"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the field, the rule and the value.
        """
        check_choice("profile", self.profile, PROFILES)
        check_choice("frozen_reviewers", self.frozen_reviewers, ("prepend", "prepend_shared"))
        check_count("programs_count", self.programs_count, 1)
        check_count("jitter", self.jitter, 0, 1000)
        self._process()

    def _variant(self) -> dict[str, str]:
        return {"profile": self.profile}

    def _program(self, number: int) -> Program:
        rng = stream(self.seed, f"code-writer/lengths/{number}")
        context, search = CONTEXT_TOKENS, [SEARCH_TOKENS[1]] * 2
        if self.jitter:
            context = SEEN_CONTEXT_TOKENS.get(number, context) + rng.randint(-self.jitter, self.jitter)
            search = [_search_tokens(rng) for _ in search]
        results = {"search_1": search[0], "search_2": search[1]}
        chains = Chains(
            [
                Chunk("header", (Piece(f"{APP}/header", HEADER_TOKENS),)),
                Chunk("context", (Piece(f"{APP}/context/{number}", context - HEADER_TOKENS),)),
            ]
        )
        nodes: list[Node] = []
        for call in CALLS:
            nodes.append(self._llm(call, chains))
            if call.tool:
                nodes.append(_tool(call, results.get(call.name)))
        labels = {"profile": self.profile, "application_max_depth": MAX_DEPTH, "number": number}
        return Program(f"app-{number:03d}", APP, 0.0, tuple(nodes), labels)

    def _llm(self, call: Call, chains: Chains) -> LLMNode:
        output_tokens = call.output_tokens
        if call.instruction and self.profile != "conversation-tools":
            output_tokens = INSTRUCTION_TOKENS
        chunks = chains.compose(call, self._composition(call))
        prompt = chains.as_prompt(call, chunks)
        # Without an id of their own, twins would repeat each other word for word.
        output_id = call.name if call.validate else None
        chains.finish(call, chunks, self._keeps_generation(call), output_id)
        return LLMNode(
            id=call.name,
            after=tuple(_last_node(name) for name in call.predecessors),
            agent=call.name,
            agent_type=call.agent_type,
            prompt=prompt,
            output_tokens=output_tokens,
            max_tokens=output_tokens,
            output_id=output_id,
            importance=float(call.depth),
            critical=call.critical_path,
            labels=self._labels(call),
        )

    @property
    def _append_only(self) -> bool:
        return self.profile in ("conversation", "conversation-tools")

    def _composition(self, call: Call) -> str:
        if self._append_only:
            return "append_shared"
        if call.repair and self.profile == "continuation":
            return "same_role"
        if call.agent_type == "reviewer":
            return self.frozen_reviewers
        if call.agent_type == "reviser" and call.validate:
            return "prepend_shared"
        return "prepend"

    def _keeps_generation(self, call: Call) -> bool:
        if call.tool is None:
            return True
        return call.tool.keep if self._append_only else not call.instruction

    def _labels(self, call: Call) -> dict[str, object]:
        eligible, reusable = call.offload_eligible, call.reusable_prefix
        if not self._append_only:
            reusable = call.validate
            eligible = call.validate and not call.critical_path
        return {
            "in_degree": max(1, len(call.predecessors)),
            "out_degree": call.out_degree,
            "similarity": call.similarity,
            "depth": call.depth,
            "critical_path": call.critical_path,
            "near_completion": call.near_completion,
            "join_group": call.join_group,
            "dependency_depth": call.depth,
            "fanout_width": 3,
            "memory_weight": call.memory_weight,
            "offload_eligible": eligible,
            "reusable_prefix": reusable,
            "remaining_depth": MAX_DEPTH - call.depth,
            "application_max_depth": MAX_DEPTH,
            "stage_type": call.stage_type,
            "branch_id": call.branch_id,
            "branch_group": call.branch_group,
        }


_WITH_TOOL = frozenset(call.name for call in CALLS if call.tool)


def _tool(call: Call, own_result_tokens: int | None) -> ToolNode:
    assert call.tool is not None
    return ToolNode(
        id=tool_id(call.name),
        after=(call.name,),
        tool=call.tool.kind,
        duration_s=call.tool.duration_s,
        estimate_s=call.tool.duration_s,
        result_tokens=call.tool.result_tokens if own_result_tokens is None else own_result_tokens,
        result_id=f"{APP}/{call.name}" if own_result_tokens is None else None,
        importance=float(call.depth),
        critical=call.critical_path,
    )


def _last_node(name: str) -> str:
    return tool_id(name) if name in _WITH_TOOL else name


def _search_tokens(rng: random.Random) -> int:
    """Return a search result's length: triangular between the extremes, with the mean that was seen."""
    least, mean, most = SEARCH_TOKENS
    return round(rng.triangular(least, most, 3 * mean - least - most))
