"""TokenCake's claims: what its paper reports, what the simulator says, and where the policy wins.

``python -m tokencake.experiments.claims OUT`` runs everything and writes the tables and the figure of
``docs/claims.md`` into a folder. Setting: ``experiment/paper_claims.yaml``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tokencake.experiments.metrics import mean_interval, relative_change
from tokencake.experiments.official_matrix import config
from tokencake.experiments.plots.regime_map import draw
from tokencake.policies import registry
from tokencake.sim.run import simulate
from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.generators.deep_research import DeepResearch, poisson
from tokencake.traces.rng import stream
from tokencake.traces.schema import Program, ToolNode

LOADS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS: Final = range(5)
MAP_SEEDS: Final = range(3)

VARIANTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "vllm": ("vllm", {}),
    "tokencake": ("tokencake", {}),
    "temporal only": ("tokencake", {"spatial": False}),
    "spatial only": ("tokencake", {"temporal": False}),
    "reactive upload": ("tokencake", {"prediction": False}),
    "no gate": ("tokencake", {"gate": False}),
    "static partition": ("tokencake", {"partition": "static"}),
    "hold=release": ("tokencake", {"hold": "release"}),
    "vllm-offload, outputs too": ("vllm-offload", {"prompt_only": False}),
    "tokencake-upstream": ("tokencake-upstream", {}),
}

TOOLS_S: Final = (0.1, 0.5, 2.0, 5.0, 15.0, 40.0)
BLOCKS: Final = (1200, 2000, 3049, 5000, 9000, 20000)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run.

    Attributes:
        latency_s: Mean program latency.
        effective: Part of GPU memory held by calls that run, over time.
        turnover: Seconds in which the free list turns over, over the 90th percentile of tool durations.
        seconds: Per program, summed over its calls and tools: queue, prefill and loads, decode, tools.
        computed: Prefill tokens computed, in millions.
        summary: The run's summary.
    """

    latency_s: float
    effective: float
    turnover: float
    seconds: Mapping[str, float]
    computed: float
    summary: Mapping[str, Any]


def run(programs: Sequence[Program], variant: str, seed: int, blocks: int = 3049) -> Outcome:
    """Play programs under a variant; only policies that use a CPU tier have one."""
    name, params = VARIANTS[variant]
    base = config("base" if name == "vllm" or variant == "spatial only" else "offload", seed)
    setting = replace(base, engine=replace(base.engine, gpu_blocks=blocks, version="0.32"))
    result = simulate(programs, setting, registry.create(name, params))
    summary = result.summary
    rows, calls = result.programs.columns, result.calls.columns
    count = len(programs)
    seconds = {
        "queue": sum(calls["queue_s"]) / count,
        "prefill and loads": sum(calls["prefill_s"]) / count,
        "decode": sum(calls["decode_s"]) / count,
        "tools": sum(rows["tool_s"]) / count,
    }
    turnover = summary["free_list_turnover_s"]
    return Outcome(
        summary["program_latency_s"]["mean"],
        summary["kv_effective_mean"],
        math.inf if turnover is None else turnover / _p90_tool_s(programs),
        seconds,
        summary["prefill_tokens"]["computed"] / 1e6,
        summary,
    )


def trace(app: str, qps: float, seed: int, tool_s: float | None = None) -> list[Program]:
    """Poisson arrivals of an application; ``tool_s`` replaces every tool duration by a Poisson draw of that mean."""
    if app == "code_writer":
        programs = list(CodeWriter(qps=qps, seed=seed, arrivals="poisson").programs())
    else:
        programs = list(DeepResearch(qps=qps, seed=seed).programs())
    return programs if tool_s is None else [_with_tools(program, tool_s, seed) for program in programs]


def _with_tools(program: Program, mean_s: float, seed: int) -> Program:
    rng = stream(seed, f"claims/{program.program}")
    unit = mean_s / 4  # a Poisson distribution whose standard deviation is half its mean
    nodes = tuple(
        replace(node, duration_s=round(max(poisson(rng, 4.0), 0.1) * unit, 6), estimate_s=mean_s)
        if isinstance(node, ToolNode)
        else node
        for node in program.nodes
    )
    return replace(program, nodes=nodes)


def _p90_tool_s(programs: Iterable[Program]) -> float:
    durations = sorted(n.duration_s for p in programs for n in p.nodes if isinstance(n, ToolNode))
    return durations[int(0.9 * (len(durations) - 1))]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % t interval."""
    found = mean_interval(values)
    return found.mean, found.half


def change(after: Iterable[Outcome], before: Iterable[Outcome]) -> tuple[float, float]:
    """Change of the mean latency in per cent, draw by draw, and half the width of its 95 % interval."""
    mine, theirs = ({draw: o.latency_s for draw, o in enumerate(runs)} for runs in (after, before))
    found = relative_change(mine, theirs)
    assert found is not None  # the same draws, and latencies above 0
    return 100 * found.mean, 100 * found.half


def sweep(app: str) -> str:
    """Load sweep: vLLM and TokenCake on common draws, the change paired by draw."""
    lines = [
        "| load | vllm: latency (s) | tokencake | vs vllm (%) | vllm: effective KV (%) | tokencake | points"
        " | vllm: turnover / P90 tool | tokencake |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for qps in LOADS:
        pairs = [[run(trace(app, qps, seed), name, seed) for name in ("vllm", "tokencake")] for seed in SEEDS]
        before, after = zip(*pairs, strict=True)
        faster = change(after, before)
        points = interval([100 * (b.effective - a.effective) for a, b in pairs])
        lines.append(
            f"| {qps} | {_mean(o.latency_s for o in before):.0f} | {_mean(o.latency_s for o in after):.0f}"
            f" | {faster[0]:+.1f} ± {faster[1]:.1f} | {100 * _mean(o.effective for o in before):.1f}"
            f" | {100 * _mean(o.effective for o in after):.1f} | {points[0]:+.1f} ± {points[1]:.1f}"
            f" | {_ratio(before)} | {_ratio(after)} |"
        )
    return "\n".join(lines)


def ablation(app: str, qps: float = 1.0) -> str:
    """Where the seconds go, for every variant at one load."""
    lines = [
        "| policy | latency (s) | vs vllm (%) | queue | prefill and loads | decode | tools | computed (M tokens)"
        " | preemptions | KV in use (%) | effective KV (%) | H2D (GB) | turnover / P90 tool |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    stock: list[Outcome] = []
    for variant in VARIANTS:
        runs = [run(trace(app, qps, seed), variant, seed) for seed in SEEDS]
        stock = stock or runs
        faster = change(runs, stock)
        parts = " | ".join(f"{_mean(o.seconds[key] for o in runs):.0f}" for key in runs[0].seconds)
        lines.append(
            f"| {variant} | {_mean(o.latency_s for o in runs):.0f} | {faster[0]:+.1f} ± {faster[1]:.1f} | {parts}"
            f" | {_mean(o.computed for o in runs):.2f} | {_mean(o.summary['preemptions'] for o in runs):.0f}"
            f" | {100 * _mean(o.summary['kv_usage_mean'] for o in runs):.1f}"
            f" | {100 * _mean(o.effective for o in runs):.1f}"
            f" | {_mean(o.summary['h2d_bytes'] for o in runs) / 1e9:.0f} | {_ratio(runs)} |"
        )
    return "\n".join(lines)


def regimes(app: str, qps: float = 0.2) -> tuple[list[list[tuple[float, float]]], list[list[float]]]:
    """Change of the mean latency in per cent with its half width, and stock vLLM's turnover ratio.

    Rows are memory sizes, columns mean tool durations.
    """
    changes: list[list[tuple[float, float]]] = []
    ratios: list[list[float]] = []
    for blocks in BLOCKS:
        changes.append([])
        ratios.append([])
        for tool_s in TOOLS_S:
            before, after = (
                [run(trace(app, qps, seed, tool_s), name, seed, blocks) for seed in MAP_SEEDS]
                for name in ("vllm", "tokencake")
            )
            changes[-1].append(change(after, before))
            ratios[-1].append(_mean(o.turnover for o in before))
    return changes, ratios


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _ratio(runs: Iterable[Outcome]) -> str:
    ratio = _mean(outcome.turnover for outcome in runs)
    return "never" if math.isinf(ratio) else f"{ratio:.2g}"


def main(out: Path) -> None:
    """Run everything; tables to the screen and ``claims.md``, the figure beside it."""
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for app in ("code_writer", "deep_research"):
        parts += [f"## {app}: load sweep", sweep(app), f"## {app}: 1.0 programs/s", ablation(app)]
        print("\n\n".join(parts[-4:]), flush=True)
    (out / "claims.md").write_text("\n\n".join(parts) + "\n")
    maps = {app: regimes(app) for app in ("code_writer", "deep_research")}
    (out / "regimes.json").write_text(json.dumps(maps))
    draw(maps, TOOLS_S, BLOCKS, out / "regime_map", ("png",))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
