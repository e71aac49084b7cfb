"""Collects result rows and totals while a host runs.

Formulas of every derived column are in ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokencake.sim.calls import Call, ProgramRun
from tokencake.sim.config import PS
from tokencake.sim.kv_timeline import KvTimeline
from tokencake.sim.records import (
    CALL_COLUMNS,
    PROGRAM_COLUMNS,
    TRANSFER_COLUMNS,
    Integral,
    RunResult,
    Table,
    distribution,
)

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.transfer import Transfer
    from tokencake.traces.schema import LLMNode


class Metrics:
    """Rows, integrals and counters of one run."""

    def __init__(self, host: Host):
        self._host = host
        self._pool = host.pool
        self._scheduler = host.scheduler
        self._placement = host.placement
        self.programs = Table(PROGRAM_COLUMNS, _program_row)
        self.calls = Table(CALL_COLUMNS, _call_row)
        self.transfers = Table(TRANSFER_COLUMNS, _transfer_row)
        self.progress: Callable[[int], None] | None = None
        self.steps = 0
        self.counts: dict[str, int] = {}
        self._used = Integral()
        self._pinned = Integral()
        self._running = Integral()
        self._waiting = Integral()
        self._kv = KvTimeline(host, self._used, self._pinned)
        self._end_ps = 0
        self._inversions = self._critical_waiting = 0
        self._late_ps = 0
        self._output = 0

    # -- what the host reports --------------------------------------------------------------------

    def count(self, what: str, number: int = 1) -> None:
        """Count an event for the summary's ``events``."""
        self.counts[what] = self.counts.get(what, 0) + number

    def used_rises(self, blocks: int, moment: int) -> None:
        """Blocks were taken during a jump; ``moment`` is the sum of their times in picoseconds."""
        self._used.value += blocks
        self._used.moment += moment

    def late(self, late_ps: int) -> None:
        """A call waited this long for KV that was on its way to the GPU."""
        self._late_ps += late_ps

    def sample(self, now_ps: int, *, eventful: bool = True) -> None:
        """Note the state of memory and queues after a step was planned.

        Args:
            now_ps: When it was planned.
            eventful: Whether anything but the blocks in use can have changed since the last time.
        """
        held = self._used
        used = self._pool.capacity - self._pool.free
        if used != held.value:
            held.moment += (used - held.value) * now_ps
            held.value = used
        if not eventful:
            return
        if self._placement.stalls or self._pinned.value:
            self._pinned.set(self._placement.pinned_blocks, now_ps)
        scheduler = self._scheduler
        running, waiting = self._running, self._waiting
        run, wait = len(scheduler.running), len(scheduler.waiting) + len(scheduler.loading)
        if run != running.value or wait != waiting.value:
            running.moment += (run - running.value) * now_ps
            running.value = run
            waiting.moment += (wait - waiting.value) * now_ps
            waiting.value = wait
            if now_ps >= self._kv.next_ps:
                self._kv.sample(now_ps)

    def call(self, call: Call, now_ps: int) -> None:
        """A call finished."""
        self._end_ps = now_ps
        self._output += call.output
        run = call.program
        row = (
            run.program.program, call.node, call.arrival_ps, call.admitted_ps, call.first_token_ps, now_ps,
            call.prompt, call.output, call.gpu_hit_tokens, call.cpu_hit_tokens, call.recomputed, call.preemptions,
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
            self._inversions += any(c.node.critical and c.order < call.order for c in waiting)

    def refused(self, call: Call, too_long: bool) -> None:
        """A call can never run: it is longer than the model, or than memory."""
        self.count("refused_model_len" if too_long else "refused_memory")
        self._end_ps = max(self._end_ps, call.arrival_ps)
        name = call.program.program.program
        self.calls.add(name, call.node, call.arrival_ps, None, 0, 0, call.prompt, 0, 0, 0, 0, 0)

    def program(self, run: ProgramRun) -> None:
        """A program ended."""
        now = self._host.clock.now_ps
        if now > self._end_ps:
            self._end_ps = now
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

    # -- results ----------------------------------------------------------------------------------------

    def result(self, timing: dict[str, float] | None = None) -> RunResult:
        """Everything at the end of a run."""
        tables = (self.programs, self.calls, self.transfers, self.kv(), self._host.decisions.table)
        return RunResult(self.summary(), *tables, timing or {})

    def kv(self) -> Table:
        """Memory over time, in blocks, at most two thousand rows: means from a row's time to the next one's."""
        return self._kv.table(self._end_ps)

    def summary(self) -> dict[str, Any]:
        """Totals and distributions (keys: ``docs/metrics.md``)."""
        host = self._host
        config = host.config
        end = self._end_ps or 1
        calls = self.calls.columns
        programs = self.programs.columns
        done = [i for i, status in enumerate(calls["status"]) if status == "finished"]

        def of(name: str) -> list[float]:
            column = calls[name]
            return [column[i] for i in done]

        latencies = [v for v in programs["latency_s"] if v is not None]
        capacity = host.pool.capacity
        used, pinned = self._used.upto(end), self._pinned.upto(end)
        wasted = (host.cpu.stored - host.cpu.used) * config.block_bytes
        return {
            "host": "sim",
            "policy": "",
            "seed": config.seed,
            "trace_sha256": "",
            "programs": len(self.programs),
            "calls": len(done),
            "refused_programs": sum(programs["refused"]),
            "refused_calls": len(self.calls) - len(done),
            "makespan_s": self._end_ps / PS,
            "program_latency_s": distribution(latencies),
            "ttft_s": distribution(of("ttft_s")),
            "queue_s": distribution(of("queue_s")),
            "call_latency_s": distribution(of("latency_s")),
            "prefill_s": distribution(of("prefill_s")),
            "decode_s": distribution(of("decode_s")),
            "output_tokens": self._output,
            "prefill_tokens": {
                "computed": sum(of("computed_tokens")),
                "gpu_hit": sum(of("gpu_hit_tokens")),
                "cpu_hit": sum(of("cpu_hit_tokens")),
                "recomputed": sum(of("recomputed_tokens")),
            },
            "preemptions": host.scheduler.preemptions,
            "running_mean": self._running.upto(end) / end,
            "waiting_mean": self._waiting.upto(end) / end,
            "kv_usage_mean": used / (end * capacity),
            "kv_effective_mean": (used - pinned) / (end * capacity),
            "stalled_kv_gb_s": pinned * config.block_bytes / PS / 1e9,
            "d2h_bytes": host.link.moved_bytes("d2h"),
            "h2d_bytes": host.link.moved_bytes("h2d"),
            "d2h_time_s": host.link.busy_ps("d2h") / PS,
            "h2d_time_s": host.link.busy_ps("h2d") / PS,
            "offload_wasted_bytes": wasted,
            "upload_late_s": self._late_ps / PS,
            "free_list_turnover_s": self._turnover_s(end, used),
            "critical_inversions": self._inversions,
            "steps": self.steps,
            "outside_measured_range": {**host.latency.outside(), **host.link.outside()},
            "events": dict(sorted(self.counts.items())),
        }

    def _turnover_s(self, end: int, used: int) -> float | None:
        """Mean free blocks over the rate at which cached blocks are overwritten."""
        evicted = self._host.pool.evicted
        if not evicted:
            return None
        free_mean = self._host.pool.capacity - used / end
        return free_mean / (evicted / (end / PS))


def _program_row(
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
    for _, _, came, admitted, _, ended, prompt, tokens, gpu, cpu, _, preempted in calls:
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


def _call_row(
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
) -> tuple[Any, ...]:
    """The row of a call from what is noted when it ends; ``admitted`` is None if it was refused."""
    names = (program, node.id, node.agent, node.agent_type, arrival / PS)
    if admitted is None:
        return (*names, *(None,) * 8, prompt, 0, 0, 0, 0, 0, 0, "refused", node.critical)
    return (
        *names,
        admitted / PS,
        first / PS,
        finish / PS,
        (finish - arrival) / PS,
        (first - arrival) / PS,
        (admitted - arrival) / PS,
        (first - admitted) / PS,
        (finish - first) / PS,
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


def _transfer_row(start: int, finish: int, *rest: Any) -> tuple[Any, ...]:
    """The row of a transfer from what is noted when it leaves the link, with times in picoseconds."""
    return (start / PS, finish / PS, *rest)
