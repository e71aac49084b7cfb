"""Collects rows and totals while a host runs; :mod:`tokencake.sim.summary` makes its results of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokencake.sim.calls import Call, ProgramRun
from tokencake.sim.kv_timeline import KvTimeline
from tokencake.sim.records import (
    CALL_COLUMNS,
    PROGRAM_COLUMNS,
    TRANSFER_COLUMNS,
    Integral,
    Table,
)
from tokencake.sim.rows import call_row, program_row, transfer_row

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.transfer import Transfer


class Metrics:
    """Rows, integrals and counters of one run.

    Attributes:
        programs: What is noted of each program when it ends.
        calls: Likewise of each call.
        transfers: Likewise of each transfer.
        kv: Memory over time.
        progress: Told the number of programs done, at every program's end.
        steps: Steps planned.
        counts: Events by name.
        used: Blocks in use, over time.
        pinned: Those of them that stalled calls hold.
        running: Running calls, over time.
        waiting: Waiting calls, over time.
        end_ps: When the last call or program ended.
        inversions: Admissions that overtook a critical call.
        late_ps: Time that calls waited for KV on its way to the GPU.
        output: Output tokens of finished calls.
    """

    def __init__(self, host: Host):
        self._host = host
        self._pool = host.pool
        self._scheduler = host.scheduler
        self._placement = host.placement
        self.programs = Table(PROGRAM_COLUMNS, program_row)
        self.calls = Table(CALL_COLUMNS, call_row)
        self.transfers = Table(TRANSFER_COLUMNS, transfer_row)
        self.progress: Callable[[int], None] | None = None
        self.steps = 0
        self.counts: dict[str, int] = {}
        self.used = Integral()
        self.pinned = Integral()
        self.running = Integral()
        self.waiting = Integral()
        self.kv = KvTimeline(host, self.used, self.pinned)
        self.end_ps = 0
        self.inversions = self._critical_waiting = 0
        self.late_ps = 0
        self.output = 0

    # -- what the host reports --------------------------------------------------------------------

    def count(self, what: str, number: int = 1) -> None:
        """Count an event for the summary's ``events``."""
        self.counts[what] = self.counts.get(what, 0) + number

    def used_rises(self, blocks: int, moment: int) -> None:
        """Blocks were taken during a jump; ``moment`` is the sum of their times in picoseconds."""
        self.used.value += blocks
        self.used.moment += moment

    def late(self, late_ps: int) -> None:
        """A call waited this long for KV that was on its way to the GPU."""
        self.late_ps += late_ps

    def sample(self, now_ps: int, *, eventful: bool = True) -> None:
        """Note the state of memory and queues after a step was planned.

        Args:
            now_ps: When it was planned.
            eventful: Whether anything but the blocks in use can have changed since the last time.
        """
        held = self.used
        used = self._pool.capacity - self._pool.free
        if used != held.value:
            held.moment += (used - held.value) * now_ps
            held.value = used
        if not eventful:
            return
        if self._placement.stalls or self.pinned.value:
            self.pinned.set(self._placement.pinned_blocks, now_ps)
        scheduler = self._scheduler
        running, waiting = self.running, self.waiting
        run, wait = len(scheduler.running), len(scheduler.waiting) + len(scheduler.loading)
        if run != running.value or wait != waiting.value:
            running.moment += (run - running.value) * now_ps
            running.value = run
            waiting.moment += (wait - waiting.value) * now_ps
            waiting.value = wait
            if now_ps >= self.kv.next_ps:
                self.kv.sample(now_ps)

    def call(self, call: Call, now_ps: int) -> None:
        """A call finished."""
        self.end_ps = now_ps
        self.output += call.output
        run = call.program
        row = (
            run.program.program, call.node, call.arrival_ps, call.admitted_ps, call.first_token_ps, now_ps,
            call.prompt, call.output, call.gpu_hit_tokens, call.cpu_hit_tokens, call.recomputed, call.preemptions,
            call.prefill_preempted_ps, call.decode_preempted_ps,
        )  # fmt: skip
        run.rows.append(row)
        self.calls.append(row)

    def waits(self, call: Call) -> None:
        """A call entered the waiting queue, or came back to it."""
        self._critical_waiting += call.node.critical

    def admitted(self, call: Call) -> None:
        """A call was admitted: did it overtake a critical call?"""
        if call.node.critical:
            self._critical_waiting -= 1
        elif self._critical_waiting:
            waiting = self._host.scheduler.waiting
            self.inversions += any(c.node.critical and c.order < call.order for c in waiting)

    def refused(self, call: Call, too_long: bool) -> None:
        """A call can never run: it is longer than the model, or than memory."""
        self.count("refused_model_len" if too_long else "refused_memory")
        self.end_ps = max(self.end_ps, call.arrival_ps)
        name = call.program.program.program
        self.calls.add(name, call.node, call.arrival_ps, None, 0, 0, call.prompt, *(0,) * 7)

    def program(self, run: ProgramRun) -> None:
        """A program ended."""
        now = self._host.clock.now_ps
        if now > self.end_ps:
            self.end_ps = now
        program = run.program
        tools = run.tools, run.tool_ps
        self.programs.add(program.program, program.app, run.arrival_ps, now, run.refused, *tools, run.rows)
        if self.progress is not None:
            self.progress(len(self.programs))

    def transfer(self, transfer: Transfer, call: Call, blocks: int) -> None:
        """A transfer left the link."""
        run = call.program.program
        row = (
            transfer.start_ps, transfer.finish_ps, transfer.direction, run.program, call.node.id,
            blocks, transfer.size_bytes, transfer.cause, transfer.state,
        )  # fmt: skip
        self.transfers.append(row)
