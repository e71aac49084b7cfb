"""SAGA on one engine: workflow-aware eviction, times to live and fair shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    EventKind,
    Keep,
    Policy,
    Prefetch,
    Trigger,
    View,
)
from tokencake.policies.arrivals import Age, Arrivals
from tokencake.policies.durations import LogNormals, foreseen
from tokencake.policies.returns import Pins, Returns, tools_ended
from tokencake.policies.service import Service

P95 = 1.6449
"""Standard deviations from the median to the 95th percentile of a normal distribution."""
LONGEST_S = 300.0
"""Longest time to live, and the time by which recency is measured."""
SLACK_S = 1e-9
"""A pin outlives its time by this much, so that a tool that takes exactly as long finds it."""
_RECENCY, _REUSE, _SIZE = 0.3, 0.5, 0.2


class Saga(Policy):
    """SAGA: evicts by the workflow, keeps for a fitted time to live, and serves the most urgent program.

    **Eviction** (from its README and policy sources): the largest

        ``0.3 * recency / 300 s + 0.5 * (1 - P_reuse) + 0.2 * size / largest size``

    first, with ``P_reuse = sum of P(v -> u) * cached / (cached + E[obs])`` over the successors ``u`` of a call
    ``v`` in the step graph; ``E[obs]`` is what a call of that agent type adds to what it continues. **Time to live**
    of a stalled call's KV: 95th percentile of a log-normal fit of its tool, times
    ``1 - 0.5 * clip((usage - 0.7) / 0.2, 0, 1)``, at most 300 s. **Prefetch**: when a tool ends, what its call lacks on
    the GPU is fetched from the CPU tier and pinned. **Order**: largest urgency ``(W - S) / (deadline - t)``
    first, with ``W`` the service that a program of its application takes on average and ``S`` what it has had.

    Assumed:
        Provenance is weak: the repository could not be fetched, and the sources above are indirect; treat
        this as SAGA's rules as they are described, not as its code. Graphs are declared here, so each of
        a call's n successors has ``P = 1 / n``, and nothing is inferred. Everything computed is copied to
        the CPU tier, if there is one. A program's deadline is its label ``deadline_s`` after its arrival, else a
        parameter; past it, a program is as urgent as one second before. KV that nothing continues was last used
        when its call arrived, that of a preempted call will be used for certain. A time to live does not end while the
        tool's call waits. Of several tools the longest counts;
        one that has never ended takes its declared estimate, else ``prior_s``.

    Not expressed:
        Affinity of sessions to engines, and work stealing: there is one engine.

    Cost:
        Urgency changes with time, so while calls wait every step is asked.

    Args:
        deadline_s: Seconds from a program's arrival to its deadline, where it declares none.
        prior_s: Duration of a tool that has not been seen and declares none, in seconds.
    """

    store_when = ("prompt", "finished")
    together: ClassVar = {"evict_order": ("place", "reuse is estimated where the stalls are seen")}

    def __init__(self, *, deadline_s: float = 600.0, prior_s: float = 1.0) -> None:
        for name, value in (("deadline_s", deadline_s), ("prior_s", prior_s)):
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        self.deadline_s = deadline_s
        self.prior_s = prior_s
        self._fits = LogNormals()
        self._service = Service()
        self._arrivals = Arrivals()
        self._stalls = Returns()
        self._pins = Pins()
        self._added: dict[str, tuple[int, int]] = {}
        self._work: dict[str, tuple[int, float]] = {}
        self._apps: dict[str, str] = {}
        self._keys: dict[str, float] = {}
        self._resuming: dict[str, float] = {}
        self._largest = 1

    # -- learning -----------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Learn durations and the work of applications; follow service and stalls."""
        self._fits.observe(event)
        self._stalls.observe(event)
        self._pins.observe(event)
        self._arrivals.observe(event)
        if event.kind is EventKind.CALL_PREEMPTED:
            self._resuming[event.call] = event.at
        elif event.kind is EventKind.CALL_ADMITTED:
            self._resuming.pop(event.call, None)
        elif event.kind is EventKind.PROGRAM_FINISHED:
            count, total = self._work.get(app := self._apps.pop(event.program, ""), (0, 0.0))
            self._work[app] = (count + 1, total + self._service.program(event.program).served)
            for call in [call for call in self._keys if call not in self._stalls]:
                del self._keys[call]
        self._service.observe(event)

    def _learn_added(self, call: CallView) -> None:
        """How many tokens a call adds to the longest chain that it continues."""
        before = [chain.call for chain in self._stalls.before(call.id)]
        if before:
            continued = max(other.prompt_tokens + other.output_tokens for other in before)
            count, total = self._added.get(call.agent_type, (0, 0))
            self._added[call.agent_type] = (count + 1, total + max(0, call.prompt_tokens - continued))

    # -- order ------------------------------------------------------------------------------------------

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Most urgent program first, then by arrival."""
        now = view.now
        urgencies: dict[str, float] = {}

        def key(call: CallView) -> tuple[float, Age]:
            name = call.program.id
            if name not in urgencies:
                self._apps[name] = call.program.app
                urgencies[name] = self._urgency(call, now)
            return -urgencies[name], self._arrivals.age(call)

        return sorted(waiting, key=key)

    def _urgency(self, call: CallView, now: float) -> float:
        program = call.program
        count, total = self._work.get(program.app, (0, 0.0))
        if not count:
            return 0.0
        clock = self._service.program(program.id)
        served = clock.served + sum(running.served_at(now) for running in clock.calls.values())
        declared = program.labels.get("deadline_s")
        deadline = float(declared) if isinstance(declared, int | float) else self.deadline_s
        return max(0.0, total / count - served) / max(1.0, program.arrival_s + deadline - now)

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Every step, while calls wait."""
        return (None, view.step + 1) if self._service.waiting else None

    # -- KV -------------------------------------------------------------------------------------------------

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Keep for the time to live; when the tool has ended, keep on or fetch."""
        if subject is None:
            return ()
        call = subject.call
        if trigger is Trigger.QUEUED:
            self._learn_added(call)
        elif trigger is Trigger.STALL:
            self._largest = max(self._largest, subject.blocks * view.block_size)
            return self._stall(view, subject)
        elif trigger is Trigger.RETURN and call.id in self._pins:
            return (Keep(),) if tools_ended(subject) else ()
        elif trigger is Trigger.RETURN and view.cpu.capacity and subject.cpu_blocks > subject.gpu_blocks:
            return (Prefetch(),)
        return ()

    def _stall(self, view: View, subject: ChainView) -> Sequence[Action]:
        if subject.next_calls:
            self._stalls.add(subject)
            self._rank(view, subject)
            if subject.next_tools:
                self._pins.add(subject)
                return (Keep(view.now + self._time_to_live(view, subject) + SLACK_S),)
        return ()

    def _time_to_live(self, view: View, chain: ChainView) -> float:
        longest = 0.0
        for tool in chain.next_tools:
            expected = foreseen(self.info, view, chain.call.program, tool.node)
            if expected is None:
                expected = self._fits.quantile(tool.tool, P95)
            if expected is None:
                expected = tool.estimate_s if tool.estimate_s is not None else self.prior_s
            longest = max(longest, expected)
        return time_to_live(longest, 1 - view.gpu.free / view.gpu.capacity)

    def _rank(self, view: View, chain: ChainView) -> None:
        """Note a chain's key; its recency relative to others does not change with time."""
        cached = chain.blocks * view.block_size
        successors = chain.next_calls
        reuse = 0.0
        for node in successors:
            count, total = self._added.get(chain.call.program.agent_type(node), (0, 0))
            added = total / count if count else 0.0
            reuse += cached / max(1.0, cached + added) / len(successors)
        self._keys[chain.call.id] = self._score(view.now, reuse, cached)

    def _score(self, used_s: float, reuse: float, tokens: int) -> float:
        """What is left of the eviction score, with its sign changed, when the time is taken out of recency."""
        size = min(1.0, tokens / self._largest)
        return _RECENCY * used_s / LONGEST_S - _REUSE * (1 - reuse) - _SIZE * size

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """On the GPU: the largest score first; what nothing continues is never used again."""
        return self._key if tier == "gpu" else None

    def _key(self, call: CallView) -> float:
        if call.id in self._stalls and call.id in self._keys:
            return self._keys[call.id]
        tokens = call.prompt_tokens + call.output_tokens
        if call.id in self._resuming:  # preempted: it needs them for certain
            return self._score(self._resuming[call.id], 1.0, tokens)
        return self._score(call.arrival_s, 0.0, tokens)

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Everything."""
        return chain.blocks


def time_to_live(usual_s: float, usage: float) -> float:
    """Seconds for which KV is kept: less under pressure, and never more than 300.

    Args:
        usual_s: 95th percentile of the tool's duration.
        usage: Part of GPU memory in use.

    >>> [time_to_live(500.0, usage) for usage in (0.5, 0.8, 1.0)]
    [300.0, 300.0, 250.0]
    >>> round(time_to_live(100.0, 0.8), 6)
    75.0
    """
    pressure = min(1.0, max(0.0, (usage - 0.7) / 0.2))
    return min(LONGEST_S, usual_s * (1 - 0.5 * pressure))
