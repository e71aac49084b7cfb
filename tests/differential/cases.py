"""Random traces and engines, small and hostile: shared prefixes, twins, tiny memory, coinciding events."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode, Node, OutputOf, Piece, Program, PromptOf, PromptPart, ResultOf, ToolNode


@dataclass(frozen=True)
class Case:
    """One differential test.

    Attributes:
        seed: Seed that it was made from.
        programs: Trace.
        config: Everything else.
    """

    seed: int
    programs: tuple[Program, ...]
    config: SimConfig


class LivelockError(RuntimeError):
    """Calls preempt each other for ever, and none finishes."""


def make_case(seed: int, *, asynchronous: bool) -> Case:
    """Return the case of a seed; the trace does not depend on ``asynchronous``."""
    rng = random.Random(seed)
    grid = rng.random() < 0.35  # all times are multiples of a millisecond, so that events coincide
    block_size = rng.choice((4, 8, 16))
    programs = _programs(rng, block_size, grid)
    longest = max(2, *(_tokens(program) for program in programs))
    blocks = max(-(-longest // block_size), rng.choice((8, 8, 8, 8, 12, 16, 24, 40, 60)))
    engine = EngineConfig(
        gpu_blocks=blocks,
        block_size=block_size,
        max_num_batched_tokens=rng.choice((8, 16, 17, 32, 48, 64, 128, 256, 512)),
        max_num_seqs=rng.choice((2, 3, 4, 6, 8, 16)),
        max_model_len=rng.choice((longest, longest + 1, 1 << 16)),
        long_prefill_token_threshold=rng.choice((0, 0, 0, 4, 10, 32)),
        prefix_caching=rng.random() < 0.9,
        reserve_full_isl=rng.random() < 0.85,
        watermark=rng.choice((0.0, 0.0, 0.0, 0.05, 0.2)),
        async_scheduling=asynchronous,
    )
    concurrency = rng.choice((0, 0, 0, 0, 0, 1, 3))
    workload = WorkloadConfig(
        calls=rng.choice(("dependent", "dependent", "dependent", "timed")),
        client_delay_s=rng.choice((0.0, 0.001, 0.05) if grid else (0.0, 0.0004, 0.0517)),
        concurrency=concurrency,
    )
    return Case(seed, programs, SimConfig(engine, _latency(rng, grid), 1024, workload=workload))


def with_cpu_tier(case: Case) -> Case:
    """The same case with a CPU tier and a link of some speed; both often too small."""
    rng = random.Random(f"tier/{case.seed}")
    blocks = rng.choice((4, 8, 12, 20, 40, 400))
    speed = rng.choice((0.0001, 0.001, 0.02, 1.0))
    link = LinkConfig(speed, speed * rng.choice((1, 2)), rng.choice((0.0, 0.0, 50.0)), free=rng.random() < 0.1)
    engine = replace(case.config.engine, cpu_blocks=blocks, prefix_caching=True)
    return replace(case, config=replace(case.config, engine=engine, link=link))


def _latency(rng: random.Random, grid: bool) -> LinearLatency:
    if grid:
        return LinearLatency(LinearCoefficients(1000.0))
    return LinearLatency(
        LinearCoefficients(
            rng.choice((100.0, 1234.567, 9000.0)),
            per_prefill_token_us=rng.choice((0.0, 7.3, 41.0)),
            per_prefill_pair_us=rng.choice((0.0, 0.013)),
            per_prefill_call_us=rng.choice((0.0, 3.1)),
            per_decode_us=rng.choice((0.0, 11.7)),
            per_context_token_us=rng.choice((0.0, 0.37)),
        )
    )


def _programs(rng: random.Random, block_size: int, grid: bool) -> tuple[Program, ...]:
    count = rng.choice((1, 2, 3, 5, 8, 14, 20))
    span = rng.choice((0.0, 0.0, 0.02, 0.2, 1.0))
    arrivals = sorted(_time(rng, span, grid) for _ in range(count))
    most = rng.choice((1, 1, 2, 4, 7))
    scale = rng.choice((1, 2, 4)) * block_size
    programs: list[Program] = []
    for i, arrival in enumerate(arrivals):
        if programs and rng.random() < 0.25:  # the same application once more: twins
            programs.append(replace(rng.choice(programs), program=f"p{i}", arrival_s=arrival))
        else:
            programs.append(Program(f"p{i}", "app", arrival, _nodes(rng, most, scale, grid)))
    return tuple(programs)


def _nodes(rng: random.Random, most: int, scale: int, grid: bool) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for i in range(rng.randint(1, most)):
        after = tuple(sorted(rng.sample([n.id for n in nodes], min(len(nodes), rng.choice((0, 1, 1, 1, 2))))))
        delay = _time(rng, 0.02, grid) if rng.random() < 0.15 else 0.0
        at = _time(rng, 0.3, grid) if rng.random() < 0.3 else None
        name = f"n{i}"
        if rng.random() < 0.25:
            duration = _time(rng, rng.choice((0.0, 0.01, 0.3)), grid)
            result = rng.choice((0, 3, scale))
            shared = rng.choice((None, "shared"))
            nodes.append(
                ToolNode(name, after, "tool", duration, result_tokens=result, result_id=shared, delay_s=delay, at_s=at)
            )
            continue
        known = {n.id: n for n in nodes if n.id in after}
        prompt = _prompt(rng, list(known.values()), scale)
        output = rng.choice((1, 2, 5, scale // 2, scale, 2 * scale + 1, 3 * scale))
        named = (Piece(f"answer{rng.randint(0, 1)}", output),) if rng.random() < 0.15 else None
        twin = rng.choice((None, None, "a", "b"))
        nodes.append(
            LLMNode(name, after, "agent", "agent", prompt, output, output=named, output_id=twin, delay_s=delay, at_s=at)
        )
    return tuple(nodes)


def _prompt(rng: random.Random, known: list[Node], scale: int) -> tuple[PromptPart, ...]:
    parts: list[PromptPart] = []
    calls = [n for n in known if isinstance(n, LLMNode)]
    if calls and rng.random() < 0.7:
        before = rng.choice(calls)
        parts = [PromptOf(before.id), OutputOf(before.id)]
    elif rng.random() < 0.8:
        parts = [Piece(f"system{rng.randint(0, 1)}", rng.choice((scale // 2, scale, scale + 3)))]
    parts += [ResultOf(n.id) for n in known if isinstance(n, ToolNode)]
    for _ in range(rng.randint(0 if parts else 1, 2)):
        parts.append(Piece(f"piece{rng.randint(0, 5)}", rng.randint(1, 2 * scale)))
    if not any(isinstance(part, Piece | PromptOf) for part in parts):
        parts.append(Piece("ask", 1))
    return tuple(parts)


def _tokens(program: Program) -> int:
    resolved = resolve(program)
    return max(
        (resolved[n.id].prompt_tokens + n.output_tokens for n in program.nodes if isinstance(n, LLMNode)), default=1
    )


def _time(rng: random.Random, span_s: float, grid: bool) -> float:
    return rng.randint(0, round(span_s * 1000)) / 1000 if grid else round(rng.uniform(0, span_s), 6)
