"""Simulator against virtual engine: every table, every decision, the summary and the final free list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cases import Case, LivelockError

from tokencake.policies.api import Policy
from tokencake.sim.config import SimConfig, StuckError
from tokencake.sim.host import Host
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.records import RunResult
from tokencake.sim.summary import run_result
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode

if TYPE_CHECKING:
    from tokencake.engine.virtual import VirtualHost


class Counted:
    """A latency model that ends a run which never would, after ``most`` steps."""

    def __init__(self, latency: LatencyModel, most: int):
        self._latency = latency
        self._left = self._most = most

    def __getattr__(self, name: str) -> object:
        return getattr(self._latency, name)

    def fresh(self) -> Counted:
        return Counted(self._latency.fresh(), self._most)

    def step_ps(self, *step: object) -> int:
        self._left -= 1
        if not self._left:
            raise LivelockError(f"{self._most} steps")
        return self._latency.step_ps(*step)


Change = dict[str, bool | str]


def differences(
    case: Case,
    make_policy: Callable[[], Policy],
    *,
    native: str = "",
    engines: Sequence[Change] = ({},),
    most: int = 20_000,
) -> list[str]:
    """Run a case in vLLM and in simulators, and return what differs, the first differing decision first.

    Args:
        case: Trace and configuration.
        make_policy: Makes a fresh policy.
        native: VLLM's queue that decides instead of the policy's hooks, if any.
        engines: Changes of the simulator's engine configuration, such as ``{"jumps": False}``; one simulator each.
        most: Steps after which a run is given up.

    Raises:
        LivelockError: Nobody finishes this case.
        StuckError: All hosts say, in the same words after the same rows, that the policy lets nobody finish it.
    """
    from tokencake.engine.virtual import virtual_host  # imports vLLM

    virtual = virtual_host(_counted(case.config, most), make_policy(), case.programs, native=native)
    simulators = [_simulator(case, make_policy(), change, most) for change in engines]
    ended = [_end(host) for host in (virtual, *simulators)]
    if len({repr(error) for error in ended}) > 1:
        return [f"vLLM and simulators with {engines} end: {ended}"]
    why = ended[0]
    if isinstance(why, LivelockError):  # a jump is one of the steps that are counted, so each came to another time
        raise why
    if why is None:
        for host in (virtual, *simulators):
            _check_end(host)
    theirs = run_result(virtual)
    found: list[str] = []
    for change, simulated in zip(engines, simulators, strict=True):
        ours = run_result(simulated)
        here = [*_tables(ours, theirs, native)]
        if why is None:
            here += [*_summary(ours, theirs), *_memory(case, simulated, virtual)]
        found += [f"{change or 'simulator'}: {text}" for text in here]
    if why is not None and not found:
        raise why
    return found


def _counted(config: SimConfig, most: int) -> SimConfig:
    return replace(config, log_decisions=True, latency=Counted(config.latency, most))


def _simulator(case: Case, policy: Policy, change: Change, most: int) -> Host:
    config = _counted(case.config, most)
    knowledge = Knowledge.of(policy.info, case.programs)
    return Host(replace(config, engine=replace(config.engine, **change)), policy, iter(case.programs), knowledge)


def _end(host: Host) -> LivelockError | StuckError | None:
    """Let a host run; returns why it came to no end."""
    try:
        host.run()
    except (LivelockError, StuckError) as error:
        return error
    return None


def _check_end(host: Host) -> None:
    """Nothing is held, moved or remembered any more."""
    host.pool.check([])
    assert host.pool.free == host.pool.capacity
    if host.config.engine.cpu_blocks:
        host.cpu.check()
        assert not host.cpu.pinned, "blocks of the CPU tier are still written or read"
    assert not host.placement.stalls and not host.live and host.link.idle


def _tables(ours: RunResult, theirs: RunResult, native: str) -> Iterator[str]:
    for name in ("decisions", "calls", "programs", "transfers", "kv"):
        a, b = (list(zip(*getattr(result, name).columns.values(), strict=True)) for result in (ours, theirs))
        if name == "decisions" and native:  # vLLM itself asks no hook
            a, b = ([row[:6] for row in rows if row[2] == "preempted"] for rows in (a, b))
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
