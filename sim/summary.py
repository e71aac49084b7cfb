"""What a run leaves behind, from what was noted while it lasted.

Formulas of every derived column are in ``docs/metrics.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokencake.sim.config import PS
from tokencake.sim.records import RunResult, distribution

if TYPE_CHECKING:
    from tokencake.sim.host import Host


def run_result(host: Host, timing: dict[str, Any] | None = None) -> RunResult:
    """Everything at the end of a run."""
    metrics = host.metrics
    kv = metrics.kv.table(metrics.end_ps)
    metrics.transfers.sort(key=lambda row: (row[1], row))  # not by when the engine looked, which jumps do not
    tables = (metrics.programs, metrics.calls, metrics.transfers, kv, host.decisions.table)
    return RunResult(totals(host), *tables, timing or {})


def totals(host: Host) -> dict[str, Any]:
    """Totals and distributions (keys: ``docs/metrics.md``)."""
    metrics = host.metrics
    config = host.config
    end = metrics.end_ps or 1
    calls = metrics.calls.columns
    programs = metrics.programs.columns
    done = [i for i, status in enumerate(calls["status"]) if status == "finished"]

    def of(name: str) -> list[float]:
        column = calls[name]
        return [column[i] for i in done]

    latencies = [v for v in programs["latency_s"] if v is not None]
    ran = bool(done or latencies)

    def time_mean(area: int, of: int = 1) -> float | None:
        return area / (end * of) if ran else None

    capacity = host.pool.capacity
    used, pinned = metrics.used.upto(end), metrics.pinned.upto(end)
    wasted = (host.cpu.stored - host.cpu.used) * config.block_bytes
    return {
        "host": "sim",
        "policy": "",
        "seed": config.seed,
        "trace_sha256": "",
        "programs": len(metrics.programs),
        "calls": len(done),
        "refused_programs": sum(programs["refused"]),
        "refused_calls": len(metrics.calls) - len(done),
        "makespan_s": metrics.end_ps / PS if ran else None,
        "program_latency_s": distribution(latencies),
        "ttft_s": distribution(of("ttft_s")),
        "queue_s": distribution(of("queue_s")),
        "call_latency_s": distribution(of("latency_s")),
        "prefill_s": distribution(of("prefill_s")),
        "prefill_preempted_s": distribution(of("prefill_preempted_s")),
        "decode_s": distribution(of("decode_s")),
        "decode_preempted_s": distribution(of("decode_preempted_s")),
        "output_tokens": metrics.output,
        "prefill_tokens": {
            "computed": sum(of("computed_tokens")),
            "gpu_hit": sum(of("gpu_hit_tokens")),
            "cpu_hit": sum(of("cpu_hit_tokens")),
            "recomputed": sum(of("recomputed_tokens")),
        },
        "preemptions": host.scheduler.preemptions,
        "running_mean": time_mean(metrics.running.upto(end)),
        "waiting_mean": time_mean(metrics.waiting.upto(end)),
        "kv_usage_mean": time_mean(used, capacity),
        "kv_effective_mean": time_mean(used - pinned, capacity),
        "stalled_kv_gb_s": pinned * config.block_bytes / PS / 1e9,
        "d2h_bytes": host.link.moved_bytes("d2h"),
        "h2d_bytes": host.link.moved_bytes("h2d"),
        "d2h_time_s": host.link.busy_ps("d2h") / PS,
        "h2d_time_s": host.link.busy_ps("h2d") / PS,
        "offload_wasted_bytes": wasted,
        "upload_late_s": metrics.late_ps / PS,
        "free_list_turnover_s": _turnover_s(host, end, used),
        "critical_inversions": metrics.inversions,
        "steps": metrics.steps,
        "outside_measured_range": {**host.latency.outside(), **host.link.outside()},
        "events": dict(sorted(metrics.counts.items())),
    }


def _turnover_s(host: Host, end: int, used: int) -> float | None:
    """Mean free blocks over the rate at which cached blocks are overwritten."""
    evicted = host.pool.evicted
    if not evicted:
        return None
    free_mean = host.pool.capacity - used / end
    return free_mean / (evicted / (end / PS))
