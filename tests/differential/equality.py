"""Simulator against virtual engine: every table, every decision, the summary and the final free list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cases import Case

from tokencake.policies.api import Info, Policy
from tokencake.sim.host import Host
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.records import RunResult
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode

if TYPE_CHECKING:
    from tokencake.engine.virtual import VirtualHost


class LivelockError(RuntimeError):
    """Calls preempt each other for ever."""


class Counted:
    """A latency model that ends a run which never would."""

    def __init__(self, latency: LatencyModel):
        self._latency = latency
        self._left = 20_000

    def __getattr__(self, name: str) -> object:
        return getattr(self._latency, name)

    def step_ps(self, *step: object) -> int:
        self._left -= 1
        if not self._left:
            raise LivelockError("20,000 steps")
        return self._latency.step_ps(*step)


def differences(case: Case, make_policy: Callable[[], Policy], *, native: str = "", **engine: bool | str) -> list[str]:
    """Run a case in both and return what differs, the first differing decision first.

    Args:
        case: Trace and configuration.
        make_policy: Makes a fresh policy.
        native: VLLM's queue that decides instead of the policy's hooks, if any.
        engine: Changes of the simulator's engine configuration, such as ``version="0.22"``.

    Raises:
        LivelockError: Neither finishes this case.
    """
    from tokencake.engine.virtual import virtual_host  # imports vLLM

    config = replace(case.config, log_decisions=True, latency=Counted(case.config.latency))
    policy = make_policy()
    knowledge = Knowledge.of_trace(case.programs) if policy.info is Info.CLASS_MEAN else Knowledge()
    simulated = Host(replace(config, engine=replace(config.engine, **engine)), policy, iter(case.programs), knowledge)
    config = replace(config, latency=Counted(case.config.latency))
    virtual = virtual_host(config, make_policy(), case.programs, native=native)
    ended = [_ends(simulated), _ends(virtual)]
    if not any(ended):
        raise LivelockError("neither the simulator nor vLLM finishes this case")
    if not all(ended):
        return [f"the simulator ends: {ended[0]}, vLLM ends: {ended[1]}"]
    virtual.pool.check([])
    ours, theirs = simulated.metrics.result(), virtual.metrics.result()
    return [*_tables(ours, theirs, native), *_summary(ours, theirs), *_memory(case, simulated, virtual)]


def _ends(host: Host) -> bool:
    try:
        host.run()
    except LivelockError:
        return False
    return True


def _tables(ours: RunResult, theirs: RunResult, native: str) -> Iterator[str]:
    for name in ("decisions", "calls", "programs", "transfers", "kv"):
        a, b = (list(zip(*getattr(result, name).columns.values(), strict=True)) for result in (ours, theirs))
        if name == "decisions" and native:  # vLLM itself asks no hook
            a, b = ([row[:6] for row in rows if row[2] in ("admitted", "preempted")] for rows in (a, b))
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            yield f"{name}, row {at}: simulator {a[at : at + 1]}, vLLM {b[at : at + 1]}"


def _summary(ours: RunResult, theirs: RunResult) -> Iterator[str]:
    for key, value in ours.summary.items():
        if theirs.summary[key] != value:
            yield f"{key}: simulator {value}, vLLM {theirs.summary[key]}"


def _memory(case: Case, simulated: Host, virtual: VirtualHost) -> Iterator[str]:
    """The two free lists, which now hold all blocks, have the same content in the same order."""
    names: dict[tuple[object, int], object] = {}
    for program in case.programs:
        for node in program.nodes:
            if isinstance(node, LLMNode):
                content = resolve(program)[node.id]
                chain = simulated.tree.chain(content.prompt + content.output)
                hashes = virtual.tree.of(content.prompt, content.output).block_hashes
                names |= {(segment, i): hashes[i] for segment, lo, hi in chain.spans for i in range(lo, hi)}
    ours = [None if segment is None else names[segment, i] for segment, i in simulated.pool.free_list()]
    theirs = [found for found, _ in virtual.pool.free_list()]
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(theirs))
        yield f"free list differs from position {at} of {len(theirs)} (simulator: {len(ours)})"
