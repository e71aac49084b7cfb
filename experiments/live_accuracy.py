"""How far the simulator is off a live engine on this machine: calibrate, measure, predict, compare.

``python -m tokencake.experiments.live_accuracy OUT`` makes the tables of ``docs/validation.md``. The traces
are those of the demo generator, the calibration runs an invented load that has nothing to do with them. Policies
take turns, repeat after repeat, so that what else the machine does meets all of them.

Everything is done with `tokencake` commands, and printed as such, so that any part can be run alone.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tokencake.experiments.arguments import Parser
from tokencake.experiments.cli import main
from tokencake.experiments.errors import UsageError
from tokencake.experiments.results import find_runs

POLICIES = ("vllm", "vllm-priority", "vllm-offload", "autellix", "continuum", "infercept", "kvflow")

TRACES = {
    "bursts": ("trace.qps=1.5", "trace.programs_count=24"),
    "crowd": (
        "trace.qps=3",
        "trace.programs_count=40",
        "trace.task_tokens=500",
        "trace.system_tokens=300",
        "trace.tool_scale=0.5",
    ),
}
"""Settings of the demo generator: few programs with long tools, and many with short ones."""


def run(words: Sequence[str] | None = None) -> None:
    """Do all of it; what is there already is kept.

    Raises:
        UsageError: a command failed; it has said why.
    """
    parser = Parser(prog="python -m tokencake.experiments.live_accuracy", description=__doc__)
    parser.add_argument("out", type=Path, help="directory for profile, runs and tables")
    parser.add_argument("--model", default="s", help="model of the live engine; default: s")
    parser.add_argument("--seconds", type=int, default=120, help="time for calibration; default: 120")
    parser.add_argument("--repeats", type=int, default=3, help="live runs of each policy; default: 3")
    parser.add_argument("--policies", default=",".join(POLICIES), help=f"default: {','.join(POLICIES)}")
    chosen = parser.parse_args(words)
    out: Path = chosen.out
    profile = out / "profile.yaml"
    if not profile.exists():
        _command("calibrate", str(profile), f"--model={chosen.model}", f"--seconds={chosen.seconds}")
    common = ["+experiment=tiny", "trace=demo", f"hardware.profile={profile}", f"policy={chosen.policies}"]
    for name, trace in TRACES.items():
        live, predicted = out / name / "live", out / name / "sim"
        if not live.exists():
            repeats = ",".join(map(str, range(chosen.repeats)))
            repeat = f"live.repeat={repeats}"
            _command("run", "-m", "host=live", f"live.model={chosen.model}", repeat, *common, *trace, f"out={live}")
        if not predicted.exists():
            _command("run", "-m", "host=sim", *common, *trace, f"out={predicted}")
        replayed = out / name / "replayed"
        for measured in find_runs([live]):
            again = replayed / measured.path.name
            if not again.exists():
                policy, repeat = measured.summary["policy"], measured.config["live"]["repeat"]
                recorded = (f"policy={policy}", f"live.repeat={repeat}", f"hardware.recorded={measured.path}")
                _command("run", "host=sim", *common[:-1], *trace, *recorded, f"out={again}")
        _command("compare", str(live), str(predicted), f"--out={out / name / 'predicted'}")
        _command("compare", str(live), str(replayed), f"--out={out / name / 'recorded'}")


def _command(*words: str) -> None:
    print("$ tokencake", shlex.join(words), flush=True)
    if main(words) != 0:
        raise UsageError(f"tokencake {words[0]} failed")


if __name__ == "__main__":
    run()
