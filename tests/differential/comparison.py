"""Simulator against oracle: the first call that went another way, if any, and the final memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cases import Case
from oracle import Oracle, Outcome

from tokencake.policies.api import Policy
from tokencake.sim.config import PS
from tokencake.sim.host import Host
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.summary import totals


def differences(case: Case, policy: Policy | None = None, queue: str = "fcfs", **engine: bool) -> list[str]:
    """Run a case in both and return what differs, calls in order of their first differing event.

    Args:
        case: Trace and configuration.
        policy: The simulator's policy; stock by default.
        queue: The queue of vLLM that the policy stands for.
        engine: Changes of the simulator's engine configuration, such as ``jumps=False``.

    Raises:
        LivelockError: vLLM never finishes this case.
    """
    outcome = Oracle(case.config, queue).run(case.programs)
    config = replace(case.config, engine=replace(case.config.engine, **engine))
    host = Host(config, policy or Policy(), iter(case.programs), Knowledge())
    host.run()
    return [*_calls(host, outcome), *_totals(host, outcome), *_memory(host, outcome)]


def _calls(host: Host, outcome: Outcome) -> Iterator[str]:
    """What differs by call. Times must be equal to the last picosecond."""
    table = host.metrics.calls
    columns = table.columns
    rows = {
        (columns["program"][i], columns["call"][i]): {name: columns[name][i] for name in columns}
        for i in range(len(table))
    }
    found: list[tuple[float, str]] = []
    for key, seen in outcome.calls.items():
        expected: dict[str, float] = {
            "arrival_s": seen.issued.arrival_ps / PS,
            "admitted_s": seen.admitted_ps / PS,
            "first_token_s": seen.first_token_ps / PS,
            "finish_s": seen.finish_ps / PS,
            "gpu_hit_tokens": seen.gpu_hit_tokens,
            "preemptions": seen.preemptions,
        }
        row = rows.pop(key, None)
        if row is None:
            found.append((0.0, f"{key}: not in the simulator"))
            continue
        wrong = {name: (row[name], value) for name, value in expected.items() if row[name] != value}
        if wrong:
            times = [value for name, pair in wrong.items() if name.endswith("_s") for value in pair]
            detail = ", ".join(f"{name} {ours} != {theirs}" for name, (ours, theirs) in wrong.items())
            found.append((min(times, default=expected["admitted_s"]), f"{'/'.join(key)}: {detail}"))
    found += [(0.0, f"{key}: not in vLLM") for key in rows]
    return iter([text for _, text in sorted(found)])


def _totals(host: Host, outcome: Outcome) -> Iterator[str]:
    summary = totals(host)
    for name, value in (("makespan_s", outcome.makespan_ps / PS), ("steps", outcome.steps)):
        if summary[name] != value:
            yield f"{name} {summary[name]} != {value}"


def _memory(host: Host, outcome: Outcome) -> Iterator[str]:
    """Whether the two free lists, which now hold all blocks, have the same content in the same order."""
    from vllm.v1.core.kv_cache_utils import get_block_hash

    names: dict[tuple[object, int], object] = {}
    for seen in outcome.calls.values():
        content = seen.issued.content
        chain = host.tree.chain(content.prompt + content.output)
        hashes = seen.request.block_hashes
        for segment, lo, hi in chain.spans:
            names.update({(segment, i): hashes[i] for i in range(lo, hi)})
    ours = [None if segment is None else names[segment, i] for segment, i in host.pool.free_list()]
    queue = outcome.scheduler.kv_cache_manager.block_pool.free_block_queue.get_all_free_blocks()
    theirs = [None if block.block_hash is None else get_block_hash(block.block_hash) for block in queue]
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(theirs))
        yield f"free list differs from position {at} of {len(theirs)} (simulator: {len(ours)})"
