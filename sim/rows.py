"""Result rows, made at the end of a run from what was noted during it; formulas are in ``docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokencake.sim.config import PS

if TYPE_CHECKING:
    from tokencake.traces.schema import LLMNode


def program_row(
    program: str,
    app: str,
    arrival: int,
    finish: int,
    refused: bool,
    tools: int,
    tool_ps: int,
    calls: Sequence[tuple[Any, ...]],
) -> tuple[Any, ...]:
    """The row of a program from what is noted when it ends and from its calls' rows; times in picoseconds."""
    queue = llm = output = computed = gpu_hit = cpu_hit = preemptions = 0
    for _, _, came, admitted, _, ended, prompt, tokens, gpu, cpu, _, preempted, *_ in calls:
        queue += admitted - came
        llm += ended - came
        output += tokens
        computed += prompt - gpu - cpu
        gpu_hit += gpu
        cpu_hit += cpu
        preemptions += preempted
    times = arrival / PS, finish / PS, None if refused else (finish - arrival) / PS
    tokens = output, computed, gpu_hit, cpu_hit
    return (program, app, *times, len(calls), tools, *tokens, preemptions, refused, llm / PS, tool_ps / PS, queue / PS)


def call_row(
    program: str,
    node: LLMNode,
    arrival: int,
    admitted: int | None,
    first: int,
    finish: int,
    prompt: int,
    output: int,
    gpu_hit: int,
    cpu_hit: int,
    recomputed: int,
    preemptions: int,
    prefill_preempted: int,
    decode_preempted: int,
) -> tuple[Any, ...]:
    """The row of a call from what is noted when it ends; ``admitted`` is None if it was refused."""
    names = (program, node.id, node.agent, node.agent_type, arrival / PS)
    if admitted is None:
        return (*names, *(None,) * 10, prompt, 0, 0, 0, 0, 0, 0, "refused", node.critical)
    return (
        *names,
        admitted / PS,
        first / PS,
        finish / PS,
        (finish - arrival) / PS,
        (first - arrival) / PS,
        (admitted - arrival) / PS,
        (first - admitted) / PS,
        prefill_preempted / PS,
        (finish - first) / PS,
        decode_preempted / PS,
        prompt,
        output,
        prompt - gpu_hit - cpu_hit,
        gpu_hit,
        cpu_hit,
        recomputed,
        preemptions,
        "finished",
        node.critical,
    )


def transfer_row(start: int, finish: int, *rest: Any) -> tuple[Any, ...]:
    """The row of a transfer from what is noted when it leaves the link, with times in picoseconds."""
    return (start / PS, finish / PS, *rest)
