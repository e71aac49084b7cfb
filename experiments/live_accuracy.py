"""How far the simulator is off a live engine on this machine: calibrate, measure, predict, compare.

``python -m tokencake.experiments.live_accuracy OUT`` makes the tables of ``docs/validation.md``. The traces
are those of the demo generator; the calibration runs an invented load that has nothing to do with them, right
before each setting. Policies take turns, repeat after repeat, so that what else the machine does meets all of
them. Those whose repeats scatter so much that their mean is not known well enough are run again, whatever was predicted
for them. Two idle cores need about three quarters of an hour.

Everything is done with `tokencake` commands, and printed as such, so that any part can be run alone.
"""

import math
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import yaml

from tokencake.experiments.agreement import METRICS, standard_error
from tokencake.experiments.arguments import Parser
from tokencake.experiments.cli import main
from tokencake.experiments.errors import UsageError
from tokencake.experiments.results import Run, find_runs


@dataclass(frozen=True)
class Setting:
    """What is run.

    Attributes:
        policies: the policies compared.
        words: configuration of trace and engine.
    """

    policies: tuple[str, ...]
    words: tuple[str, ...]


SETTINGS = {
    "bursts": Setting(
        ("vllm", "vllm-priority", "autellix", "continuum", "srpf", "thunderagent"),
        ("engine.cpu_gib=0", "trace.qps=1.5", "trace.programs_count=24"),
    ),
    "crowd": Setting(
        ("vllm", "vllm-priority", "vllm-offload", "autellix", "continuum", "infercept", "kvflow"),
        (
            "trace.qps=3",
            "trace.programs_count=28",
            "trace.task_tokens=500",
            "trace.system_tokens=300",
            "trace.tool_scale=0.5",
        ),
    ),
}
"""Without a CPU tier, programs with long tools; with one, more programs with short tools."""

DRAWS = 20
"""Simulated runs of each policy, with step times that scatter as the calibration found them to."""


def run(words: Sequence[str] | None = None) -> None:
    """Do all of it; what is there already is kept.

    Raises:
        UsageError: a command failed; it has said why.
    """
    parser = Parser(prog="python -m tokencake.experiments.live_accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="directory for profiles, runs and tables")
    parser.add_argument("--model", default="s", help="model of the live engine; default: s")
    parser.add_argument("--seconds", type=int, default=90, help="time for each calibration; default: 90")
    parser.add_argument("--repeats", type=int, default=3, help="live runs of every policy; default: 3")
    parser.add_argument("--most", type=int, default=9, help="live runs of a policy whose repeats scatter; default: 9")
    parser.add_argument(
        "--known",
        type=float,
        default=1.5,
        help="standard error of hit tokens that is good enough, in percent; default: 1.5",
    )
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="may be repeated; default: all")
    chosen = parser.parse_args(words)
    for name in chosen.setting or SETTINGS:
        _measure(chosen.out / name, SETTINGS[name], chosen)


def _measure(out: Path, setting: Setting, chosen: Namespace) -> None:
    profile, live, predicted, replayed = (out / name for name in ("profile.yaml", "live", "sim", "replayed"))
    if not profile.exists():
        _command("calibrate", str(profile), f"--model={chosen.model}", f"--seconds={chosen.seconds}")
    common = ["+experiment=tiny", "trace=demo", f"hardware.profile={profile}", *setting.words]
    policies, turns = setting.policies, range(chosen.repeats)
    while policies and turns:
        where = live / f"turn-{turns[0]}"
        if not where.exists():
            own = (f"live.repeat={','.join(map(str, turns))}", f"policy={','.join(policies)}")
            _command("run", "-m", "host=live", f"live.model={chosen.model}", *own, *common, f"out={where}")
        policies = _unsettled(find_runs([live]), chosen.known / 100)
        turns = range(turns[-1] + 1, min(turns[-1] + 2, chosen.most))
    if not predicted.exists():
        own = (f"policy={','.join(setting.policies)}", f"hardware.jitter={_jitter(profile)}")
        _command("run", "-m", "host=sim", *own, *common, f"hardware.draw=range({DRAWS})", f"out={predicted}")
    for measured in find_runs([live]):
        again = replayed / measured.path.relative_to(live)
        if not again.exists():
            one = (f"policy={measured.summary['policy']}", f"live.repeat={measured.config['live']['repeat']}")
            _command("run", "host=sim", *one, *common, f"hardware.recorded={measured.path}", f"out={again}")
    _command("compare", str(live), str(predicted), f"--out={out / 'predicted'}")
    _command("compare", str(live), str(replayed), f"--out={out / 'recorded'}")


def _unsettled(runs: Sequence[Run], known: float) -> tuple[str, ...]:
    """Policies whose mean of hit tokens has a larger relative standard error than ``known``."""
    hits: dict[str, list[float]] = {}
    for measured in runs:
        hits.setdefault(measured.summary["policy"], []).append(METRICS["hit_tokens"](measured.summary))
    return tuple(name for name, values in hits.items() if standard_error(values) > known * fmean(values))


def _jitter(profile: Path) -> float:
    """Standard deviation of a step's time, as the calibration found it on steps that it did not fit."""
    calibration = yaml.safe_load(profile.read_text(encoding="utf-8"))["calibration"]
    return round(float(calibration["step_error"]) * math.sqrt(math.pi / 2), 3)  # of a normal error with this mean size


def _command(*words: str) -> None:
    print("$ tokencake", shlex.join(words), flush=True)
    if main(words) != 0:
        raise UsageError(f"tokencake {words[0]} failed")


if __name__ == "__main__":
    run()
