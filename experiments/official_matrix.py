"""Simulated against measured: TokenCake's 2026 port in its four modes, as its authors measured it.

``python -m tokencake.experiments.official_matrix`` prints the tables of ``docs/validation.md``; with a number, step
times scatter by that part of themselves, so that seeds differ as launches of one setting do. The
measured values are those of the authors' published component matrix (vLLM 0.22, one A800-80GB,
Qwen2.5-14B, 24 Code-Writer programs, profile ``conversation-tools``); one launch each, whose spread they
give as about 1.5 %.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from tokencake.experiments.a800 import setting
from tokencake.experiments.arguments import Parser, exit_code
from tokencake.experiments.metrics import relative_change
from tokencake.policies.tokencake_upstream import Mode, TokencakeUpstream
from tokencake.sim.config import SimConfig
from tokencake.sim.run import simulate
from tokencake.traces.generators.code_writer import CodeWriter

CPU_GIB: Final = 100
QUANTITIES: Final = (
    "makespan (s)",
    "mean program latency (s)",
    "p95 program latency (s)",
    "computed prefill tokens (M)",
    "GPU hit tokens (M)",
    "CPU hit tokens (M)",
    "preemptions",
    "mean running",
    "mean waiting",
    "mean decode time (s)",
    "D2H (GB)",
    "H2D (GB)",
    "D2H jobs",
    "H2D jobs",
    "longest queue (s)",
    "calls that queued 60 s",
    "denials by commitments (k)",
    "denials by reservations",
)

MEASURED: Final[Mapping[tuple[float, Mode], tuple[float, ...]]] = {
    (0.2, "base"): (938.79, 661.92, 821.64, 2.996, 2.875, 0, 47, 8.408, 27.39, 11.11, 0, 0, 0, 0),
    (0.2, "agent"): (
        *(815.69, 553.78, 693.48, 2.377, 3.500, 0, 0, 9.227, 20.28, 10.73, 0, 0, 0, 0),
        *(114.9, 95, 332.5, 1203),
    ),
    (0.2, "offload"): (681.66, 467.94, 569.00, 0.819, 2.872, 2.181, 58, 8.105, 25.70, 8.24, 56.29, 432.0, 97, 323),
    (0.2, "agent_offload"): (
        *(640.45, 448.81, 520.62, 0.808, 3.508, 1.563, 0, 8.819, 22.99, 8.39, 53.25, 307.2, 97, 299),
        *(108.5, 61, 397.5, 1908),
    ),
    (1.0, "base"): (960.44, 864.15, 929.12, 3.283, 2.591, 0, 41, 8.405, 42.64, 11.45, 0, 0, 0, 0),
    (1.0, "agent"): (
        *(837.78, 694.38, 810.35, 2.706, 3.169, 0, 0, 9.140, 29.68, 10.89, 0, 0, 0, 0),
        *(134.4, 151, 509.5, 2223),
    ),
    (1.0, "offload"): (691.01, 630.04, 660.81, 1.040, 2.647, 2.188, 58, 8.442, 42.53, 8.68, 55.42, 433.5, 96, 360),
    (1.0, "agent_offload"): (
        *(631.77, 525.25, 604.50, 0.953, 3.193, 1.727, 0, 9.109, 29.57, 8.49, 53.00, 339.5, 104, 327),
        *(107.0, 83, 511.5, 1456),
    ),
}
"""Published measurements by load in programs per second and mode, in the order of `QUANTITIES`.

The last four are published for the modes that schedule only.
"""


Cells = Mapping[tuple[float, Mode], Sequence[tuple[float, ...]]]
"""Simulated runs by load and mode, a run a seed, in the order of `QUANTITIES`."""


def config(mode: Mode, seed: int, scatter: float = 0.0) -> SimConfig:
    """The measured setting; only the offload modes have a CPU tier.

    Args:
        mode: Mode of the port.
        seed: Seed of the run.
        scatter: Standard deviation of a step's time, relative to it.
    """
    return setting(seed, cpu_gib=CPU_GIB if mode in ("offload", "agent_offload") else 0, scatter=scatter)


def simulated(
    qps: float, mode: Mode, seed: int, profile: str = "conversation-tools", scatter: float = 0.0
) -> tuple[float, ...]:
    """One cell of the matrix, in the order of `QUANTITIES`.

    Args:
        qps: Programs per second.
        mode: Mode of the port.
        seed: Draws the few tokens by which contexts differ.
        profile: Profile of the workload.
        scatter: Standard deviation of a step's time, relative to it.
    """
    trace = list(CodeWriter(profile=profile, qps=qps, seed=seed).programs())
    policy = TokencakeUpstream(mode=mode)
    result = simulate(trace, config(mode, seed, scatter), policy)
    summary: dict[str, Any] = result.summary
    tokens = summary["prefill_tokens"]
    directions = result.transfers.columns["direction"]
    queues: list[float] = result.calls.columns["queue_s"]
    denied = policy.scheduling.denied
    return (
        summary["makespan_s"],
        summary["program_latency_s"]["mean"],
        summary["program_latency_s"]["p95"],
        tokens["computed"] / 1e6,
        tokens["gpu_hit"] / 1e6,
        tokens["cpu_hit"] / 1e6,
        summary["preemptions"],
        summary["running_mean"],
        summary["waiting_mean"],
        summary["decode_s"]["mean"],
        summary["d2h_bytes"] / 1e9,
        summary["h2d_bytes"] / 1e9,
        directions.count("d2h"),
        directions.count("h2d"),
        max(queues),
        sum(queue >= 60 for queue in queues),
        denied["capacity"] / 1e3,
        denied["reservation"],
    )


def play(scatter: float = 0.0, seeds: int = 16) -> Cells:
    """All eight cells, a run a seed.

    Mean latencies of the modes that reorder scatter by 5 % from seed to seed, so it takes many.
    """
    return {cell: [simulated(*cell, seed, scatter=scatter) for seed in range(seeds)] for cell in MEASURED}


def table(cells: Cells) -> str:
    """Markdown table of every quantity in every cell, mean and range over the seeds."""
    lines = [
        "| load | mode | quantity | measured | simulated | range over seeds | difference |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for (qps, mode), measured in MEASURED.items():
        for name, value, *values in zip(QUANTITIES, measured, *cells[qps, mode], strict=False):
            if not value and not any(values):
                continue
            mean = fmean(values)
            difference = f"{100 * (mean / value - 1):+.1f} %" if value else ""
            spread = f"{_text(min(values))} to {_text(max(values))}"
            lines.append(f"| {qps} | {mode} | {name} | {_text(value)} | {_text(mean)} | {spread} | {difference} |")
    return "\n".join(lines)


def changes(cells: Cells) -> str:
    """Markdown table of makespan and mean latency against ``base``, with 95 % intervals by common seeds."""
    lines = [
        "| load | mode | makespan (%): measured | simulated | mean latency (%): measured | simulated |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for qps, mode in MEASURED:
        if mode == "base":
            continue
        columns = []
        for quantity in range(2):
            mine, theirs = (
                {seed: run[quantity] for seed, run in enumerate(cells[qps, which])} for which in (mode, "base")
            )
            measured = MEASURED[qps, mode][quantity] / MEASURED[qps, "base"][quantity] - 1
            found = relative_change(mine, theirs)
            assert found is not None  # the same seeds, and times above 0
            columns += [f"{100 * measured:+.1f}", f"{100 * found.mean:+.1f} ± {100 * found.half:.1f}"]
        lines.append(f"| {qps} | {mode} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _text(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def run(words: Sequence[str] | None = None) -> None:
    """Print the tables.

    Raises:
        UsageError: a word that is no argument.
    """
    parser = Parser(prog="python -m tokencake.experiments.official_matrix", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "scatter",
        type=_scatter,
        nargs="?",
        default=0.0,
        help="by which part of itself a step's time scatters; default: 0",
    )
    played = play(parser.parse_args(words).scatter)
    print(table(played), changes(played), sep="\n\n")


def _scatter(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"must be from 0 to 1, got {word}")
    return value


if __name__ == "__main__":
    sys.exit(exit_code(run))
