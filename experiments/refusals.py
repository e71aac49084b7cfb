"""Calls that could never run: which limit they exceed, and by how much."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokencake.experiments.words import counted
from tokencake.sim.config import EngineConfig
from tokencake.traces.schema import LLMNode, Program


def refusals(programs: Iterable[Program], calls: Mapping[str, Sequence[Any]], engine: EngineConfig) -> Iterator[str]:
    """What to say of a run's refused calls: one line, or none.

    Args:
        programs: The trace; read only if there are any.
        calls: Columns of the table of calls.
        engine: The limits that held.
    """
    rows = zip(calls["program"], calls["call"], calls["prompt_tokens"], calls["status"], strict=True)
    prompts = {(program, call): prompt for program, call, prompt, status in rows if status == "refused"}
    if not prompts:
        return
    tokens = [
        prompts[program.program, node.id] + node.output_tokens
        for program in programs
        for node in program.nodes
        if isinstance(node, LLMNode) and (program.program, node.id) in prompts
    ]
    limit, blocks = engine.max_model_len, engine.gpu_blocks
    long = [number for number in tokens if number > limit]
    big = [number for number in tokens if number <= limit]
    which = []
    if long:
        which.append(f"{len(long)} longer than engine.max_model_len={limit} (longest {max(long):,} tokens)")
    if big:
        memory = f"the memory of {blocks * engine.block_size:,} tokens (engine.gpu_blocks={blocks}"
        which.append(f"{len(big)} too long for {memory}; longest {max(big):,})")
    where = counted(len({program for program, _ in prompts}), "program")
    yield f"{counted(len(prompts), 'call')} in {where} refused, so in no latency: {', '.join(which)}"
