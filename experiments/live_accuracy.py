"""How far the simulator is off a live engine on this machine: calibrate, measure, predict, compare.

``python -m tokencake.experiments.live_accuracy OUT`` makes the tables of ``docs/validation.md``. The traces
are those of the demo generator; the calibration runs an invented load that has nothing to do with them. How fast
a machine is changes within minutes, so each turn, in which every policy runs once, has a calibration right before
it, and is predicted from that one alone. Two idle cores need about three quarters of an hour. It can be ended and
begun again: turns that were measured are kept, and so is what was simulated; what was made otherwise is refused.

Everything is done with `tokencake` commands, and printed as such, so that any part can be run alone.
"""

import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tokencake.experiments.arguments import Parser, exit_code
from tokencake.experiments.cli import main
from tokencake.experiments.results import find_runs, jobs_of
from tokencake.experiments.resuming import is_done


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


def run(words: Sequence[str] | None = None) -> None:
    """Do all of it; what an earlier attempt did is kept, if it is the same.

    Raises:
        UsageError: a word that is no argument.
        SystemExit: a command failed; it has said why.
    """
    parser = Parser(prog="python -m tokencake.experiments.live_accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="directory for profiles, runs and tables")
    parser.add_argument("--model", default="s", help="model of the live engine; default: s")
    parser.add_argument("--seconds", type=int, default=45, help="time for each calibration; default: 45")
    parser.add_argument("--turns", type=int, default=6, help="live runs of every policy; default: 6")
    parser.add_argument(
        "--draws", type=int, default=20, help="simulated runs for each live one, whose step times scatter; default: 20"
    )
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="may be repeated; default: all")
    chosen = parser.parse_args(words)
    for name in chosen.setting or SETTINGS:
        _measure(chosen.out / name, SETTINGS[name], chosen)


def _measure(out: Path, setting: Setting, chosen: Namespace) -> None:
    for turn in range(chosen.turns):
        _turn(out, turn, setting, chosen)
    for against, name in (("sim", "predicted"), ("replayed", "recorded")):
        _command("compare", str(out / "live"), str(out / against), f"--out={out / name}", "--overwrite")


def _turn(out: Path, turn: int, setting: Setting, chosen: Namespace) -> None:
    """Calibrate, run every policy once, and predict that from this calibration alone.

    A turn that was ended early begins anew: its calibration is no longer right before it.
    """
    profile = out / "profiles" / f"turn-{turn}.yaml"
    live, predicted, replayed = (out / name / f"turn-{turn}" for name in ("live", "sim", "replayed"))
    if not (profile.exists() and _whole(live)):
        for directory in (live, predicted, replayed):
            shutil.rmtree(directory, ignore_errors=True)
        profile.unlink(missing_ok=True)
        profile.parent.mkdir(parents=True, exist_ok=True)
        _command("calibrate", str(profile), f"--model={chosen.model}", f"--seconds={chosen.seconds}")
    common = ["+experiment=tiny", "trace=demo", f"hardware.profile={profile}", *setting.words]
    policies = f"policy={','.join(setting.policies)}"
    own = (f"live.model={chosen.model}", f"live.repeat={turn}", policies)
    _command("run", "-m", "host=live", *own, *common, *_into(live))
    scatter = (*_scatter(profile), f"hardware.draw=range({chosen.draws})")
    _command("run", "-m", "host=sim", policies, *scatter, *common, *_into(predicted))
    for measured in find_runs([live]):
        one = (f"policy={measured.summary['policy']}", f"live.repeat={turn}", f"hardware.recorded={measured.path}")
        _command("run", "host=sim", *one, *common, *_into(replayed / measured.path.relative_to(live)))


def _whole(sweep: Path) -> bool:
    """Whether every job of a sweep is there and went to its end."""
    jobs = jobs_of(sweep)
    return bool(jobs) and all(is_done(sweep / job) for job in jobs)


def _into(out: Path) -> tuple[str, str]:
    """Where runs go; those that an earlier attempt left there are kept, if they are the same."""
    return f"out={out}", "resume=true"


def _scatter(profile: Path) -> tuple[str, ...]:
    """How step times scatter, as the calibration found it."""
    calibration = yaml.safe_load(profile.read_text(encoding="utf-8"))["calibration"]
    return tuple(f"hardware.{key}={calibration[key]}" for key in ("jitter", "drift", "drift_s"))


def _command(*words: str) -> None:
    print("$ tokencake", shlex.join(words), flush=True)
    if code := main(words):
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(exit_code(run))
