"""The Code-Writer application as a table of facts: structure, lengths, durations, metadata.

The rows describe the workload profile ``conversation-tools`` that the authors of TokenCake publish
with their experiments (27 model calls, 18 tool calls, 36 edges counting the two local ends). Only
lengths and structure are kept, no text. Token counts are those of the Qwen tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

HEADER_TOKENS = 95
"""Tokens that the contexts of all programs share: the fixed header before the instruction."""
CONTEXT_TOKENS = 4606
"""Typical length of a program's initial context, header included."""
SEEN_CONTEXT_TOKENS = {0: 4605, 1: 4607, 11: 4606, 23: 4606}
"""Lengths that were counted in the published inputs, by program number."""
SEARCH_TOKENS = (389, 394, 402)
"""Least, mean and greatest length of a search result over the programs that were counted."""
MAX_DEPTH = 17
"""The ``application_max_depth`` that every call declares (the two local ends count)."""
INSTRUCTION_TOKENS = 500
"""Output of the 13 tool-instruction calls in every profile but conversation-tools (there: 128)."""

TEMPLATE_TOKENS = {
    "architect": 17,
    "search": 32,
    "judger": 56,
    "file_write": 28,
    "programmer": 13,
    "reviewer": 13,
    "reviser": 15,
    "external_eval": 32,
    "user_confirm": 25,
    "test_node": 25,
}


@dataclass(frozen=True, slots=True)
class Tool:
    """The tool that runs after a call: its kind, how long it takes and what it returns.

    ``keep`` says whether the generated text goes on to the next call with the result
    (``preserve_generation``), in the conversation profiles.
    """

    kind: str
    duration_s: float
    result_tokens: int
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One model call; field names of the metadata are the authors'."""

    name: str
    agent_type: str
    predecessors: tuple[str, ...]
    template: str
    output_tokens: int
    tool: Tool | None
    stage_type: str
    branch_id: str
    branch_group: str
    join_group: str
    critical_path: bool
    near_completion: bool
    memory_weight: float
    depth: int
    out_degree: int
    similarity: float
    offload_eligible: bool = False
    reusable_prefix: bool = False

    @property
    def instruction(self) -> bool:
        """Whether the call only writes a tool instruction (13 of the 27 do)."""
        return self.output_tokens == 128

    @property
    def validate(self) -> bool:
        """Whether the call is one of the five that write a patch to validate."""
        return self.name.endswith("_validate_patch")

    @property
    def repair(self) -> bool:
        """Whether the call is one of the five that repair after validation."""
        return self.name.endswith("_repair")


def _spine() -> list[Call]:
    rows: list[Call] = []

    def add(
        name: str, kind: str, template: str, output: int, tool: Tool | None, stage: str, outs: int = 1, on: bool = False
    ) -> None:
        before = (rows[-1].name,) if rows else ()
        rows.append(
            Call(
                name, kind, before, template, output, tool, stage, "shared", "shared", "",
                True, False, 1.0, len(rows) + 2, outs, 1.0, on, on,
            )
        )  # fmt: skip

    judge = Tool("conditional_execution", 0.4, 179)
    for round_ in (1, 2):
        add(f"architect_{round_}", "architect", "architect", 200, None, "planning")
        add(f"search_{round_}", "mcp_search", "search", 128, Tool("search", 4.0, 394), "search", on=True)
        add(f"judger_{round_}", "mcp_conditional_execution", "judger", 128, judge, "plan_review", on=True)
    write = Tool("file_write", 0.1, 194)
    add("file_write_plan", "mcp_file_write", "file_write", 128, write, "file_write", outs=3, on=True)
    return rows


def _programmer(k: int) -> list[Call]:
    who, group, join, critical = f"programmer_{k}", "implementation", "implementation_review", k == 1
    third = 1 / 3
    return [
        Call(
            f"{who}_validate_patch", "programmer", ("file_write_plan",), "programmer", 400,
            Tool("tool_call", 8.0, 268), "branch_validation", who, group, join,
            critical, False, 1.6, 9, 1, third, True, True,
        ),
        Call(
            f"{who}_repair", "programmer", (f"{who}_validate_patch",), "programmer", 400,
            None, "branch_repair", who, group, join,
            critical, False, 1.7, 10, 1, third,
        ),
        Call(
            f"code_write_{k}", "mcp_file_write", (f"{who}_repair",), "file_write", 128,
            Tool("file_write", 0.1, 204), "file_write", who, group, join,
            critical, False, 1.0, 11, 2, third, True, True,
        ),
    ]  # fmt: skip


def _reviewer(k: int) -> Call:
    writers = ("code_write_1", "code_write_2", "code_write_3")
    return Call(
        f"reviewer_{k}", "reviewer", writers, "reviewer", 200, None, "review", f"reviewer_{k}", "review", "revision",
        k == 1, False, 2.0, 12, k + 1, 0.5,
    )  # fmt: skip


def _reviser(k: int) -> list[Call]:
    who, group, join, critical = f"reviser_{k}", "revision", "final_merge", k == 1
    return [
        Call(
            f"{who}_validate_patch", "reviser", ("reviewer_1", "reviewer_2"), "reviser", 400,
            Tool("tool_call", 10.0, 272), "revision_validation", who, group, join,
            critical, False, 1.6, 13, 1, 0.5, True, True,
        ),
        Call(
            f"{who}_repair", "reviser", (f"{who}_validate_patch",), "reviser", 400,
            None, "revision_repair", who, group, join,
            critical, True, 2.2, 14, 1, 0.5,
        ),
        Call(
            f"revised_code_write_{k}", "mcp_file_write", (f"{who}_repair",), "file_write", 128,
            Tool("file_write", 0.1, 209, keep=False), "file_write", who, group, join,
            critical, True, 1.0, 15, 1, 0.5,
        ),
    ]  # fmt: skip


def _verification() -> list[Call]:
    who, group, join = "external_test", "verification", "final_merge"
    return [
        Call(
            "external_eval", "mcp_external_tool_eval", ("reviewer_2",), "external_eval", 128,
            Tool("external_tool_eval", 4.5, 219), "external_evaluation", who, group, join,
            True, False, 2.0, 13, 1, 1.0, True, True,
        ),
        Call(
            "user_confirm", "mcp_user_confirm", ("external_eval",), "user_confirm", 128,
            Tool("user_confirm", 3.5, 164), "user_confirmation", who, group, join,
            True, True, 1.0, 14, 1, 1.0, True, True,
        ),
        Call(
            "test_node", "mcp_external_test", ("user_confirm",), "test_node", 128,
            Tool("test", 5.5, 207, keep=False), "external_test", who, group, join,
            True, True, 2.2, 15, 1, 1.0,
        ),
    ]  # fmt: skip


CALLS: tuple[Call, ...] = (
    *_spine(),
    *_programmer(1),
    *_programmer(2),
    *_programmer(3),
    _reviewer(1),
    _reviewer(2),
    *_reviser(1),
    *_reviser(2),
    *_verification(),
)
"""The 27 model calls in topological order (the authors' local start and end nodes left out)."""
