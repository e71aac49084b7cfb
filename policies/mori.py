"""MORI (arXiv 2606.00866): programs move between GPU, CPU and a waiting line by how idle they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    EventKind,
    Info,
    Offload,
    Park,
    Policy,
    Prefetch,
    Timer,
    Trigger,
    Unpark,
    View,
)
from tokencake.policies.programs import Programs, Standing
from tokencake.policies.service import Service

GPU, CPU, LINE = "gpu", "cpu", "line"
"""Where a program is placed: its KV on the GPU, its KV in the CPU tier, or nowhere in particular."""


class Mori(Policy):
    """MORI: places whole programs on the GPU, in the CPU tier or in a waiting line, the idlest lowest.

    **Idleness** (arXiv 2606.00866, from notes) of a program over its last ``cycles`` cycles of calls and
    tools, without the time for which it had to wait for the engine:

        ``iota = T_act / (T_act + T_reason)``

    **Every** ``interval_s``: while the contexts of the programs on the GPU exceed it, the idlest is *demoted*,
    those whose tools run before those that compute (which move when their call ends): to the CPU tier, where its
    KV is copied, if their contexts fit there, else to the line. Then, while there is room on the GPU, programs are
    *promoted*: from the CPU those whose tool is done, then from the line, returning ones before new ones,
    each by idleness, the least first, then by size. A program that is not on the GPU starts no call.

    **Eviction** by type. GPU: KV of programs that are not placed there, then of those whose tools run, then of
    those that compute. CPU: of programs that have ended or wait in line, then of those on the GPU, then of those
    placed here.

    Assumed:
        The notes say neither when a program has to be demoted nor what a context is: when the sum of contexts
        exceeds the tier, and the input of its calls under way, or what it will come back to; what running
        calls share counts once, as in ThunderAgent. A program
        that is new, or comes back from the CPU, does not wait for the next look if there is room.
        Among those that return from the line idleness counts before size. Nothing is copied before a demotion,
        so a program in the line loses what the GPU overwrites. If no program is on the GPU, the first to be
        promoted is, whatever its size.

    Not expressed:
        Placement on several replicas. In the CPU tier a head that chains share has the type of the program that
        stored it first, and may go before them.

    Args:
        interval_s: Seconds between two looks.
        cycles: Cycles over which idleness is measured.
    """

    info = Info.NONE
    offloads = True
    together: ClassVar = {"evict_order": ("place", "it ranks by the tier in which a program was placed")}

    def __init__(self, *, interval_s: float = 5.0, cycles: int = 5) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s must be > 0, got {interval_s}")
        if cycles < 1:
            raise ValueError(f"cycles must be >= 1, got {cycles}")
        self.interval_s = interval_s
        self.cycles = cycles
        self._programs = Programs()
        self._service = Service()
        self._tier: dict[str, str] = {}
        self._placed: dict[str, dict[str, Standing]] = {GPU: {}, CPU: {}, LINE: {}}
        self._history: dict[str, deque[tuple[float, float]]] = {}
        self._served: dict[str, float] = {}
        self._ticking = False

    # -- learning -----------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Follow programs and service; close a cycle when a program calls again."""
        if event.kind is EventKind.CALL_QUEUED:
            standing = self._programs.standing(event.program)
            if standing.acting_since is not None:
                self._close_cycle(event.program, event.at - standing.acting_since)
        self._service.observe(event)
        self._programs.observe(event)
        if event.kind is EventKind.PROGRAM_FINISHED:
            self._placed.get(self._tier.pop(event.program, ""), {}).pop(event.program, None)
            self._history.pop(event.program, None)
            self._served.pop(event.program, None)

    def _close_cycle(self, program: str, acted: float) -> None:
        served = self._service.program(program).served
        reasoned = served - self._served.get(program, 0.0)
        self._served[program] = served
        self._history.setdefault(program, deque(maxlen=self.cycles)).append((acted, reasoned))

    def idleness(self, program: str, now: float) -> float:
        """``iota`` of a program, its present cycle included; 0 before it has done anything."""
        cycles = list(self._history.get(program, ()))
        standing = self._programs.standing(program)
        if standing.acting_since is not None:
            reasoned = self._service.program(program).served - self._served.get(program, 0.0)
            cycles.append((now - standing.acting_since, reasoned))
        acted, reasoned = (sum(part) for part in zip(*cycles[-self.cycles :], strict=True)) if cycles else (0.0, 0.0)
        return acted / (acted + reasoned) if acted + reasoned > 0 else 0.0

    # -- placing --------------------------------------------------------------------------------------

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Demote and promote every interval; let in who comes back if there is room."""
        if trigger is Trigger.TIMER:
            self._ticking = False
            return [*self._demote(view), *self._promote(view), *self._tick(view)]
        if subject is None:
            return ()
        if trigger is Trigger.QUEUED:
            return [*self._tick(view), *self._arrive(view, self._programs.queued(subject))]
        if trigger is Trigger.STALL:
            program = self._programs.stalled(subject)
            if program.marked and not program.under_way:
                program.marked = False
                return self._move_down(view, program)
        return ()

    def _tick(self, view: View) -> list[Action]:
        if self._ticking or not self._programs.under_way:
            return []
        self._ticking = True
        return [Timer(view.now + self.interval_s)]

    def _move(self, program: Standing, tier: str) -> None:
        self._placed.get(self._tier.get(program.id, ""), {}).pop(program.id, None)
        self._tier[program.id] = tier
        self._placed[tier][program.id] = program

    def _room(self, view: View, tier: str) -> int:
        """Tokens of a tier beyond the contexts placed there."""
        if tier == CPU:
            return view.cpu.capacity * view.block_size - sum(p.context for p in self._placed[CPU].values())
        return view.gpu.capacity * view.block_size - self._load(view, self._placed[GPU].values())

    def _load(self, view: View, programs: Iterable[Standing]) -> int:
        """Tokens that the contexts of programs on the GPU take, what running calls share counted once."""
        contexts = running = 0
        for program in programs:
            contexts += program.context
            if program.running:
                running += program.context
        held = (view.gpu.capacity - view.gpu.free) * view.block_size
        return contexts - max(0, running - held)

    def _arrive(self, view: View, program: Standing) -> list[Action]:
        tier = self._tier.get(program.id)
        if tier == GPU:
            return []
        if tier is None:
            self._move(program, LINE)
        room = self._room(view, GPU)
        if program.context > room and self._placed[GPU]:
            return [Park(program.id)]
        if tier != CPU and any(p is not program and self._ready(p) for p in self._placed[LINE].values()):
            return [Park(program.id)]  # not before those that have waited
        return self._move_up(view, program)

    @staticmethod
    def _ready(program: Standing) -> bool:
        """Whether a call of it waits for being let in."""
        return program.reasoning and not program.running

    def _demote(self, view: View) -> list[Action]:
        placed = [p for p in self._placed[GPU].values() if not p.marked]
        over = self._load(view, placed) - view.gpu.capacity * view.block_size
        if over <= 0:
            return []
        order = sorted(placed, key=lambda p: (p.reasoning, -self.idleness(p.id, view.now), p.order))
        actions: list[Action] = []
        for program in order:
            if over <= 0 or len(placed) == 1:
                break
            placed.remove(program)
            over -= program.context
            if program.reasoning:
                program.marked = True
            else:
                actions += self._move_down(view, program)
        return actions

    def _promote(self, view: View) -> list[Action]:
        room = self._room(view, GPU)
        alone = not self._placed[GPU]
        ready = [p for tier in (CPU, LINE) for p in self._placed[tier].values() if self._ready(p)]
        actions: list[Action] = []
        for program in sorted(ready, key=lambda p: self._rank(p, view.now)):
            if program.context <= room or alone:
                alone = False
                room -= program.context
                actions += self._move_up(view, program)
        return actions

    def _rank(self, program: Standing, now: float) -> tuple[int, float, int, int]:
        place = 0 if self._tier[program.id] == CPU else 1 if program.served else 2
        return place, self.idleness(program.id, now), program.context, program.order

    def _move_down(self, view: View, program: Standing) -> list[Action]:
        chains = self._programs.chains(program.id)
        if view.cpu.capacity and program.context <= self._room(view, CPU):
            self._move(program, CPU)
            return [Park(program.id), *(Offload(call=chain.call.id) for chain in chains)]
        self._move(program, LINE)
        return [Park(program.id)]

    def _move_up(self, view: View, program: Standing) -> list[Action]:
        """Let a program in; the engine loads what a waiting call finds in the CPU tier, other chains are fetched."""
        was = self._tier[program.id]
        self._move(program, GPU)
        program.marked = False
        chains = self._programs.chains(program.id) if was == CPU else ()
        return [Unpark(program.id), *(Prefetch(call=chain.call.id) for chain in chains)]

    # -- eviction -------------------------------------------------------------------------------------------

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """By the type of the program that released the KV."""
        return self._gpu_type if tier == GPU else self._cpu_type

    def _gpu_type(self, call: CallView) -> int:
        program = self._programs.under_way.get(call.program.id)
        if program is None or self._tier.get(program.id) != GPU:
            return 0
        return 2 if program.reasoning else 1

    def _cpu_type(self, call: CallView) -> int:
        tier = self._tier.get(call.program.id)
        return {GPU: 1, CPU: 2}.get(tier or "", 0)
