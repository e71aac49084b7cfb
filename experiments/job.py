"""One run: everything checked first, then simulated, then written in one go."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokencake.engine import install
from tokencake.engine.config import LiveConfig
from tokencake.engine.run import check, check_live, run_live, run_virtual
from tokencake.experiments.errors import UsageError
from tokencake.experiments.inputs import TraceInput, check_arrivals, open_input
from tokencake.experiments.labels import policy_name
from tokencake.experiments.notes import notes
from tokencake.experiments.policy_code import code_of
from tokencake.experiments.progress import progress
from tokencake.experiments.refusals import refusals
from tokencake.experiments.results import Table, check_free, finished_programs, replacing, write_run
from tokencake.experiments.settings import HARDWARE_DEFAULTS, profile_of, sim_config
from tokencake.experiments.settings import build as build_settings
from tokencake.experiments.timeline import build, tool_spans
from tokencake.experiments.words import counted
from tokencake.policies import registry
from tokencake.policies.answers import BrokenRuleError
from tokencake.policies.api import Policy
from tokencake.policies.guard import HookError
from tokencake.policies.hints import did_you_mean
from tokencake.policies.params import PolicyError
from tokencake.sim.config import ConfigError, SimConfig, StuckError
from tokencake.sim.records import RunResult
from tokencake.sim.run import simulate

_HOSTS = ("sim", "virtual", "live")
_SECTIONS = ("policy", "trace", "hardware", "engine", "link", "workload", "bounds", "live", "log")
_KEYS = (*_SECTIONS, "host", "seed", "out", "overwrite", "resume", "timeline", "noise")
_SUBKEYS = {"log": ("decisions",), "hardware": ("profile", *HARDWARE_DEFAULTS)}  # of sections that nobody else checks
_NOT_TYPED = ("out", "overwrite", "resume", "hydra.sweep.dir", "hydra.searchpath")


@dataclass(frozen=True)
class Job:
    """A run that is ready to go.

    Attributes:
        config: the resolved configuration, as it is written to `config.yaml`.
        overrides: what was typed, less what says where results go.
        trace: what is replayed.
        sim: the configuration of the host.
        policy: makes a fresh policy.
        code: digests of the user's own modules that it is made of.
        host: replays programs.
        out: where the results go, if the user said so.
        resume: whether an earlier attempt at this run may be there.
    """

    config: Mapping[str, Any]
    overrides: tuple[str, ...]
    trace: TraceInput
    sim: SimConfig
    policy: Callable[[], Policy]
    code: Mapping[str, str]
    host: Callable[..., RunResult]
    out: Path | None
    resume: bool

    def run(self, out: Path) -> bool:
        """Run the host, write the run directory and say where it is.

        Returns:
            Whether a program finished; if none did, the run has no latency.

        Raises:
            UsageError: the policy leaves calls waiting or fails, or the engine does not start.
            KeyboardInterrupt: the user ended the run early; what had finished is written.
        """
        label = f"{policy_name(self.config['policy'])} on {self.trace.label}"
        load = os.getloadavg()[0]
        policy = self.policy()
        with progress(label, "program", self.trace.count, ticking=self.config["host"] != "live") as report:
            try:
                result = self.host(self.trace, self.sim, policy, progress=report)
            except HookError as error:
                hint = "" if isinstance(error.__cause__, BrokenRuleError) else "; traceback: --debug"
                raise UsageError(f"{error}{hint}") from error
            except (StuckError, install.EngineStartError) as error:
                raise UsageError(str(error)) from error
        result.timing["load_average"] = [load, os.getloadavg()[0]]
        head = self._head()
        summary = head | result.summary | head  # its keys come first, and win
        tables = {name: getattr(result, name) for name in ("programs", "calls", "transfers", "kv")}
        timeline = self._timeline(tables) if self.config["timeline"] else None
        with replacing(out, self.config["overwrite"] or self.resume) as directory:
            write_run(
                directory,
                config=dict(self.config) | {"out": str(out)},
                summary=summary,
                tables=tables,
                timing=result.timing,
                overrides=self.overrides,
                decisions=result.decisions if self.sim.log_decisions else None,
                timeline=timeline,
                measured={"steps": result.steps, "copies": result.copies},
            )
        odd = notes(policy, policy_name(self.config["policy"]), self.config["trace"], self.sim, summary)
        for note in (*odd, *refusals(self.trace, result.calls.columns, self.sim.engine)):
            print(f"{out}: {note}", file=sys.stderr)
        print(_report(label, summary, out))
        if summary.get("interrupted"):
            raise KeyboardInterrupt
        return finished_programs(summary) > 0

    def _timeline(self, tables: Mapping[str, Table]) -> object:
        programs, calls = tables["programs"].columns, tables["calls"].columns
        timed = self.sim.workload.calls == "timed"
        spans = tool_spans(self.trace, programs, calls, timed=timed)
        return build(programs, calls, tables["transfers"].columns, tables["kv"].columns, spans)

    def _head(self) -> dict[str, Any]:
        """What identifies the run, before what the host found out."""
        policy = {key: value for key, value in self.config["policy"].items() if key != "name"}
        return {
            "host": self.config["host"],
            "policy": self.config["policy"]["name"],
            "policy_params": policy,
            **({"policy_code": self.code} if self.code else {}),
            "hardware": self.config["hardware"]["profile"],
            "seed": self.sim.seed,
            "trace": self.trace.name,
            "trace_sha256": self.trace.sha256,
        }


def prepare(config: Mapping[str, Any], overrides: Iterable[str] = ()) -> Job:
    """Check a composed configuration and build what a run needs; writes nothing.

    Args:
        config: The configuration.
        overrides: What was typed to get it.

    Raises:
        UsageError: a value that cannot be used.
        BadInput: the trace's first line is wrong.
    """
    _check_keys(config)
    host = config["host"]
    if host not in _HOSTS:
        raise UsageError(f"host={host}: unknown host; {did_you_mean(str(host), _HOSTS)}")
    for key in ("overwrite", "resume", "timeline"):
        if not isinstance(config[key], bool):
            raise UsageError(f"{key}: must be true or false, got {config[key]!r}")
    out, resume = config["out"], config["resume"]
    if resume and config["overwrite"]:
        raise UsageError("resume=true: keeps what overwrite=true replaces; choose one")
    if resume and out is None:
        raise UsageError("resume=true: needs out=DIRECTORY, where what was stopped is")
    if out is not None and not resume:
        check_free(Path(str(out)), config["overwrite"])
    policy, code = _policy(config["policy"])
    profile = profile_of(config)
    sim = sim_config(config, profile)
    replay = _host(host, sim, build_settings(LiveConfig, config["live"], "live"))
    typed = tuple(overrides)
    check_arrivals(config["trace"], sim.workload.concurrency, {_key(word) for word in typed})
    trace = open_input(config["trace"], sim.seed)
    # The size of the CPU tier as it was given: in blocks, or in GiB, from which the blocks follow.
    given = {"cpu_gib": config["engine"]["cpu_gib"] if config["engine"]["cpu_blocks"] is None else None}
    own = {key: value for key, value in config.items() if key != "resume"}  # changes no result, so none tells of it
    resolved = own | {"engine": asdict(sim.engine) | given, "link": asdict(sim.link)}
    kept = tuple(word for word in typed if _key(word) not in _NOT_TYPED)
    where = Path(str(out)) if out is not None else None
    return Job(resolved, kept, trace, sim, policy, code, replay, where, resume)


def _key(word: str) -> str:
    """What an override sets."""
    return word.lstrip("+").partition("=")[0]


def _check_keys(config: Mapping[str, Any]) -> None:
    """Refuse keys that nobody would read (`+polcy=vllm`)."""
    for prefix, section, known in (("", config, _KEYS), *((f"{k}.", config[k], v) for k, v in _SUBKEYS.items())):
        for key in section:
            if key not in known:
                raise UsageError(f"{prefix}{key}: unknown key; {did_you_mean(key, known)}")


def _host(name: str, sim: SimConfig, live: LiveConfig) -> Callable[..., RunResult]:
    """What replays programs; an engine must be there, and can do what is asked of it."""
    if name == "sim":
        return simulate
    reason = install.missing()
    if reason is not None:
        raise UsageError(f"host={name}: {reason}")
    try:
        if name == "virtual":
            check(sim)
            return run_virtual
        check_live(sim, live)
        return partial(run_live, live=live)
    except ConfigError as error:
        raise UsageError(f"host={name}: {error}") from error


def _policy(values: Mapping[str, Any]) -> tuple[Callable[[], Policy], Mapping[str, str]]:
    """A maker of policies, and what they are made of; one is made at once, to find mistakes before anything runs."""
    params = {key: value for key, value in values.items() if key != "name"}
    make = partial(registry.create, values["name"], params)
    try:
        return make, code_of(make())
    except PolicyError as error:
        raise UsageError(str(error)) from error


def _report(label: str, summary: Mapping[str, Any], out: Path) -> str:
    if not summary["programs"]:
        return f"{label}: no program ended -> {out}"
    finished = finished_programs(summary)
    which = f"{finished} of {summary['programs']} programs finished, " if summary["refused_programs"] else ""
    if not finished:
        return f"{label}: {which}so there is no program latency -> {out}"
    latency = summary["program_latency_s"]
    preemptions = counted(summary["preemptions"], "preemption")
    return (
        f"{label}: {which}mean latency {latency['mean']:.1f} s, p95 {latency['p95']:.1f} s, "
        f"makespan {summary['makespan_s']:.1f} s, {preemptions} -> {out}"
    )
