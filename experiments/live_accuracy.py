"""How far the simulator is off a live engine on this machine: calibrate, measure, predict, compare.

``python -m tokencake.experiments.live_accuracy OUT`` makes the tables of ``docs/validation.md``. The traces
are those of the demo generator; the calibration runs an invented load that has nothing to do with them. How fast
a machine is changes within minutes, so each live run has a calibration right before it, and is predicted from that
one alone. In a turn every policy runs once. It can be ended and begun again: what was measured is kept, and so is what
was simulated; what was made otherwise is refused.

Everything is done with `tokencake` commands, and printed as such, so that any part can be run alone.
"""

import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tokencake.experiments.arguments import Parser, exit_code
from tokencake.experiments.cli import main
from tokencake.experiments.errors import UsageError
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
    "rush": Setting(
        ("vllm", "vllm-offload", "infercept", "cachedattention", "tokencake", "srpf", "critical-path"),
        (
            "trace.qps=100",
            "trace.programs_count=28",
            "trace.task_tokens=500",
            "trace.system_tokens=300",
            "trace.output_tokens=60",
            "trace.tool_scale=0.25",
        ),
    ),
}
"""Without a CPU tier, programs with long tools; with one, more programs with short tools; and all of them at once.

In the first two, policies are about as good as each other. The third is for their order: traces, and policies that the
simulator puts apart, were chosen by simulation alone.
"""


def run(words: Sequence[str] | None = None) -> None:
    """Do all of it; what an earlier attempt did is kept, if it is the same.

    Raises:
        UsageError: a word that is no argument, or measurements that were made otherwise.
        SystemExit: a command failed; it has said why.
    """
    parser = Parser(prog="python -m tokencake.experiments.live_accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="directory for profiles, runs and tables")
    parser.add_argument("--model", default="s", help="model of the live engine; default: s")
    parser.add_argument("--seconds", type=int, default=30, help="time for each calibration; default: 30")
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
        measurements = [_Measurement(out, turn, policy, setting, chosen) for policy in setting.policies]
        for measurement in measurements:
            measurement.measure()
        for measurement in measurements:
            measurement.predict()
    for against, name in (("sim", "predicted"), ("replayed", "recorded")):
        sides = [str(out / side / _turn(turn)) for side in ("live", against) for turn in range(chosen.turns)]
        _command("compare", *sides, f"--out={out / name}", "--overwrite")


def _turn(number: int) -> str:
    return f"turn-{number}"


class _Measurement:
    """One live run, the calibration right before it, and what is simulated with that calibration alone."""

    def __init__(self, out: Path, turn: int, policy: str, setting: Setting, chosen: Namespace) -> None:
        place = Path(_turn(turn)) / policy
        self._profile = out / "profiles" / place.with_suffix(".yaml")
        self._live, self._predicted, self._replayed = (out / name / place for name in ("live", "sim", "replayed"))
        self._chosen = chosen
        what = ("+experiment=tiny", "trace=demo", *setting.words)
        # Predictions are given the repeat, too, so that they are compared turn by turn.
        self._common = (f"policy={policy}", f"live.repeat={turn}", f"hardware.profile={self._profile}", *what)

    def measure(self) -> None:
        """Calibrate and run, unless that is done.

        A run that was ended early begins anew: its calibration is no longer right before it.

        Raises:
            UsageError: it is done, with a calibration of another length.
        """
        model = self._chosen.model
        if self._profile.exists() and is_done(self._live):
            seconds = self._calibration()["seconds"]
            if seconds != self._chosen.seconds:
                raise UsageError(f"--seconds {self._chosen.seconds}: {self._profile} was measured for {seconds:g} s")
        else:
            for directory in (self._live, self._predicted, self._replayed):
                shutil.rmtree(directory, ignore_errors=True)
            self._profile.unlink(missing_ok=True)
            _command("calibrate", str(self._profile), f"--model={model}", f"--seconds={self._chosen.seconds}")
        _command("run", "host=live", f"live.model={model}", *self._common, *_into(self._live))

    def predict(self) -> None:
        """Simulate it with step times that scatter as the calibration's did, and with the times that it recorded."""
        found = self._calibration()
        scatter = [f"hardware.{key}={found[key]}" for key in ("jitter", "drift", "drift_s")]
        draws = f"hardware.draw=range({self._chosen.draws})"
        _command("run", "-m", "host=sim", *scatter, draws, *self._common, *_into(self._predicted))
        recorded = f"hardware.recorded={self._live}"
        _command("run", "host=sim", recorded, *self._common, *_into(self._replayed))

    def _calibration(self) -> dict[str, Any]:
        """What the profile says of how it was made."""
        found: dict[str, Any] = yaml.safe_load(self._profile.read_text(encoding="utf-8"))["calibration"]
        return found


def _into(out: Path) -> tuple[str, str]:
    """Where runs go; those that an earlier attempt left there are kept, if they are the same."""
    return f"out={out}", "resume=true"


def _command(*words: str) -> None:
    print("$ tokencake", shlex.join(words), flush=True)
    if code := main(words):
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(exit_code(run))
