"""Simulated against measured: vLLM on the Code-Writer workload, as TokenCake's authors measured it.

``python -m tokencake.experiments.fidelity`` prints the table of ``docs/validation.md``. The measured
values are those of the base mode (unmodified vLLM 0.22, one A800-80GB, Qwen2.5-14B, 24 programs) in
the authors' published component matrix; one launch each, whose spread they give as about 1.5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokencake.experiments.a800 import setting
from tokencake.policies.api import Policy
from tokencake.sim.run import simulate
from tokencake.traces.generators.code_writer import CodeWriter

MEASURED: Final[Mapping[float, Mapping[str, float]]] = {
    0.2: {
        "makespan (s)": 938.79,
        "mean program latency (s)": 661.92,
        "p95 program latency (s)": 821.64,
        "computed prefill tokens": 2_996_432,
        "hit prefill tokens": 2_874_848,
        "preemptions": 47,
        "mean running": 8.408,
        "mean waiting": 27.394,
        "mean queue time (s)": 39.497,
        "mean TTFT (s)": 41.647,
        "mean prefill time (s)": 1.559,
        "mean decode time (s)": 11.105,
        "mean KV usage": 0.8324,
    },
    1.0: {
        "makespan (s)": 960.44,
        "mean program latency (s)": 864.15,
        "p95 program latency (s)": 929.12,
        "computed prefill tokens": 3_282_597,
        "hit prefill tokens": 2_591_264,
        "preemptions": 41,
        "mean running": 8.405,
        "mean waiting": 42.642,
        "mean queue time (s)": 62.972,
        "mean TTFT (s)": 65.022,
        "mean prefill time (s)": 1.413,
        "mean decode time (s)": 11.453,
        "mean KV usage": 0.8454,
    },
}
"""Published measurements by load in programs per second."""


def simulated(qps: float, seed: int) -> dict[str, float]:
    """One run of the measured setting, under the names of `MEASURED`.

    Args:
        qps: Programs per second.
        seed: Draws the few tokens by which contexts differ.
    """
    trace = list(CodeWriter(qps=qps, seed=seed).programs())
    summary: dict[str, Any] = simulate(trace, setting(seed), Policy()).summary
    return {
        "makespan (s)": summary["makespan_s"],
        "mean program latency (s)": summary["program_latency_s"]["mean"],
        "p95 program latency (s)": summary["program_latency_s"]["p95"],
        "computed prefill tokens": summary["prefill_tokens"]["computed"],
        "hit prefill tokens": summary["prefill_tokens"]["gpu_hit"],
        "preemptions": summary["preemptions"],
        "mean running": summary["running_mean"],
        "mean waiting": summary["waiting_mean"],
        "mean queue time (s)": summary["queue_s"]["mean"],
        "mean TTFT (s)": summary["ttft_s"]["mean"],
        "mean prefill time (s)": summary["prefill_s"]["mean"],
        "mean decode time (s)": summary["decode_s"]["mean"],
        "mean KV usage": summary["kv_usage_mean"],
    }


def table(seeds: int = 3) -> str:
    """Markdown table of measured and simulated values, mean and range over the seeds."""
    lines = [
        "| load | quantity | measured | simulated | range over seeds | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for qps, measured in MEASURED.items():
        runs = [simulated(qps, seed) for seed in range(seeds)]
        for name, value in measured.items():
            values = [run[name] for run in runs]
            mean = sum(values) / seeds
            spread = f"{_text(min(values))} to {_text(max(values))}"
            difference = f"{100 * (mean / value - 1):+.1f} %"
            lines.append(f"| {qps} | {name} | {_text(value)} | {_text(mean)} | {spread} | {difference} |")
    return "\n".join(lines)


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    print(table())
