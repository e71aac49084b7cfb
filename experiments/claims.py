"""TokenCake's claims: what its paper reports, what the simulator says, and where the policy wins.

``python -m tokencake.experiments.claims OUT`` runs everything and writes the tables and the figure of
``docs/claims.md`` into a folder. Setting: ``experiment/paper_claims.yaml``. In every table ± is half of a 95 % t
interval over draws, of the change of the latency that of the ratio of means on common draws.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from tokencake.experiments.a800 import setting
from tokencake.experiments.metrics import mean_interval, relative_change
from tokencake.experiments.official_matrix import CPU_GIB
from tokencake.experiments.outcome import PARTS, Outcome, play
from tokencake.experiments.plots.regime_map import draw
from tokencake.policies import registry
from tokencake.sim.run import simulate
from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.generators.deep_research import DeepResearch, poisson
from tokencake.traces.rng import stream
from tokencake.traces.schema import Program, ToolNode

APPS: Final = ("code_writer", "deep_research")
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
    "vllm-priority and vllm-offload": (
        "compose",
        {"order": "vllm-priority", "victim": "vllm-priority", "store": "vllm-offload"},
    ),
    "tokencake-upstream": ("tokencake-upstream", {}),
}
NO_TIER: Final = ("vllm", "spatial only")
"""Variants that copy nothing; the others have a CPU tier."""

TOOLS_S: Final = (0.1, 0.5, 2.0, 5.0, 15.0, 40.0)
BLOCKS: Final = (1200, 2000, 3049, 5000, 9000, 20000)
MAP_QPS: Final = 0.2
LEAST: Final = 0.5
"""Per cent of latency below which nobody wins, however sure the difference is."""
LOSING: Final = ("vllm", "tokencake", "temporal only", "no gate", "hold=release")
"""What is looked at where TokenCake loses: the longest tools of the map, at two of its sizes of memory."""


def run(programs: Sequence[Program], variant: str, seed: int, blocks: int = 3049) -> Outcome:
    """Play programs under a variant."""
    name, params = VARIANTS[variant]
    base = setting(seed, cpu_gib=0 if variant in NO_TIER else CPU_GIB)
    config = replace(base, engine=replace(base.engine, gpu_blocks=blocks, version="0.32"))
    return play(programs, config, registry.create(name, params))


def needed(programs: Sequence[Program], seed: int) -> float:
    """Prompt tokens in millions that are computed where nothing is ever overwritten: each of them once."""
    config = replace(setting(seed), infinite_kv=True)
    return float(simulate(programs, config, registry.create("vllm")).summary["prefill_tokens"]["computed"] / 1e6)


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


def change(after: Iterable[Outcome], before: Iterable[Outcome]) -> tuple[float, float]:
    """Change of the mean latency in per cent, draw by draw, and half the width of its 95 % interval."""
    mine, theirs = ({draw: o.latency_s for draw, o in enumerate(runs)} for runs in (after, before))
    found = relative_change(mine, theirs)
    assert found is not None  # the same draws, and latencies above 0
    return 100 * found.mean, 100 * found.half


def cell(values: Iterable[float], form: str = ".0f") -> str:
    """Mean and half width of the 95 % t interval of one value a draw; the least where some draws have no end."""
    listed = list(values)
    if math.inf in listed:
        return "never" if min(listed) == math.inf else f"≥ {min(listed):{form}}"
    found = mean_interval(listed)
    return f"{found.mean:{form}} ± {found.half:{form.lstrip('+')}}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A Markdown table whose first columns are names."""
    lines = [head, ["---"] * names + ["---:"] * (len(head) - names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sweep(app: str) -> str:
    """Load sweep: vLLM and TokenCake on common draws."""
    head = ["load (programs/s)", "vllm: latency (s)", "tokencake", "vs vllm (%)"]
    head += ["vllm: effective KV (%)", "tokencake", "points", "vllm: turnover / P90 tool", "tokencake"]
    rows = []
    for qps in LOADS:
        traces = {seed: trace(app, qps, seed) for seed in SEEDS}
        before, after = ([run(t, name, seed) for seed, t in traces.items()] for name in ("vllm", "tokencake"))
        kv = [[100 * o.effective for o in runs] for runs in (before, after)]
        rows.append(
            [
                f"{qps:g}",
                *(cell(o.latency_s for o in runs) for runs in (before, after)),
                _versus(after, before),
                *(cell(values, ".1f") for values in kv),
                cell([b - a for a, b in zip(*kv, strict=True)], "+.1f"),
                *(cell((o.turnover for o in runs), ".2f") for runs in (before, after)),
            ]
        )
    return table(head, rows)


def ablation(app: str, qps: float = 1.0) -> tuple[str, str]:
    """Every variant at one load: where the seconds go, and what memory and link did."""
    traces = {seed: trace(app, qps, seed) for seed in SEEDS}
    least = [needed(programs, seed) for seed, programs in traces.items()]
    runs = {name: [run(programs, name, seed) for seed, programs in traces.items()] for name in VARIANTS}
    seconds = [
        [name, cell(o.latency_s for o in own), _versus(own, runs["vllm"]), *_seconds(own, least)]
        for name, own in runs.items()
    ]
    memory = [
        [name, *(cell((take(o) for o in own), form) for take, form in _MEMORY.values())] for name, own in runs.items()
    ]
    for row, own in zip(memory, runs.values(), strict=True):
        row.insert(2, cell([_again(o, once) for o, once in zip(own, least, strict=True)], ".2f"))
    parts = ["queue", "queue again", "loads", "prefill once", "recompute", "decode", "tools"]
    return (
        table(["policy", "latency (s)", "vs vllm (%)", *parts], seconds),
        table(["policy", "computed (M tokens)", "again", *list(_MEMORY)[1:]], memory),
    )


_MEMORY: Final[Mapping[str, tuple[Callable[[Outcome], float], str]]] = {
    "computed": (lambda o: o.computed, ".2f"),
    "preemptions": (lambda o: o.summary["preemptions"], ".0f"),
    "running calls": (lambda o: o.summary["running_mean"], ".1f"),
    "KV in use (%)": (lambda o: 100 * o.summary["kv_usage_mean"], ".1f"),
    "effective KV (%)": (lambda o: 100 * o.effective, ".1f"),
    "D2H (GB)": (lambda o: o.summary["d2h_bytes"] / 1e9, ".0f"),
    "H2D (GB)": (lambda o: o.summary["h2d_bytes"] / 1e9, ".0f"),
    "turnover / P90 tool": (lambda o: o.turnover, ".2f"),
}


def _again(outcome: Outcome, once: float) -> float:
    """Tokens in millions that were computed before and had been lost, by overwriting or preemption."""
    return outcome.computed + float(outcome.summary["prefill_tokens"]["recomputed"]) / 1e6 - once


def _seconds(runs: Sequence[Outcome], least: Sequence[float]) -> list[str]:
    """Cells of `PARTS`; prefill is divided as its tokens are: computed for the first time, and again."""
    cells = []
    for part in PARTS:
        values = [o.seconds[part] for o in runs]
        if part == "prefill":
            first = [min(1.0, once / o.computed) for o, once in zip(runs, least, strict=True)]
            cells.append(cell([value * share for value, share in zip(values, first, strict=True)], ".1f"))
            values = [value * (1 - share) for value, share in zip(values, first, strict=True)]
        cells.append(cell(values, ".1f"))
    return cells


def losses(app: str = "deep_research") -> str:
    """Variants under the longest tools of the map."""
    head = ["blocks", "policy", "latency (s)", "vs vllm (%)", "running calls", "effective KV (%)", "preemptions"]
    head += ["pins and reserves lifted", "turnover / P90 tool"]
    rows = []
    for blocks in (BLOCKS[0], 3049):
        traces = {seed: trace(app, MAP_QPS, seed, TOOLS_S[-1]) for seed in MAP_SEEDS}
        runs = {name: [run(t, name, seed, blocks) for seed, t in traces.items()] for name in LOSING}
        for name, own in runs.items():
            lifted = [sum(o.summary["events"].get(e, 0) for e in ("pin_lifted", "reserves_lifted")) for o in own]
            take = [_MEMORY[key] for key in ("running calls", "effective KV (%)", "preemptions")]
            numbers = [cell((of(o) for o in own), form) for of, form in take]
            ratio = cell((o.turnover for o in own), ".2f")
            first = [f"{blocks:,}", name, cell(o.latency_s for o in own), _versus(own, runs["vllm"])]
            rows.append([*first, *numbers, cell(lifted), ratio])
    return table(head, rows, names=2)


def regimes(app: str, qps: float = MAP_QPS) -> tuple[list[list[tuple[float, float]]], list[list[float]]]:
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
            ratios[-1].append(fmean(o.turnover for o in before))
    return changes, ratios


def tally(changes: Iterable[Iterable[tuple[float, float]]]) -> dict[str, int]:
    """Cells of a map by what their intervals say: TokenCake is faster (win), slower (loss), or neither (tie)."""
    cells = [found for row in changes for found in row]
    wins = sum(mean < -max(half, LEAST) for mean, half in cells)
    losses = sum(mean > max(half, LEAST) for mean, half in cells)
    return {"wins": wins, "losses": losses, "ties": len(cells) - wins - losses}


def _versus(after: Sequence[Outcome], before: Sequence[Outcome]) -> str:
    mean, half = change(after, before)
    return "" if after is before else f"{mean:+.1f} ± {half:.1f}"


def main(out: Path) -> None:
    """Run everything; tables to the screen and ``claims.md``, the figure beside it."""
    out.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    for app in APPS:
        parts += [f"## {app}: load sweep", sweep(app), f"## {app}: 1.0 programs/s", *ablation(app)]
        print("\n\n".join(parts[-5:]), flush=True)
    parts += ["## deep_research: tools of 40 s", losses()]
    maps = {app: regimes(app) for app in APPS}
    parts += ["## Regime map", *(f"{app}: {tally(changes)}" for app, (changes, _) in maps.items())]
    print("\n\n".join(parts[-5:]), flush=True)
    (out / "claims.md").write_text("\n\n".join(parts) + "\n")
    (out / "regimes.json").write_text(json.dumps(maps))
    draw(maps, TOOLS_S, BLOCKS, out / "regime_map", ("png",))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tokencake.experiments.claims", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder for the tables and the figure")
    main(parser.parse_args().out)
