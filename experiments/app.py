"""`tokencake run`: Hydra composes the configuration and launches sweeps, everything below takes plain values."""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokencake.experiments.errors import UsageError, one_line
from tokencake.experiments.groups import GROUPS, register, register_class, register_classes
from tokencake.experiments.inputs import TraceInput
from tokencake.experiments.job import Job, prepare
from tokencake.experiments.keys import flatten
from tokencake.experiments.naming import free_directory, job_names
from tokencake.experiments.overrides import Command, check_options, check_single, explain, parse, sort_words
from tokencake.experiments.own_params import check_params, own_params
from tokencake.experiments.results import SWEEP, Run, finished_programs
from tokencake.experiments.resuming import done, done_of_sweep, is_done
from tokencake.experiments.sweep import Sweep, finish, note_failure, raise_failures, sweeping
from tokencake.experiments.words import counted

_NOTHING_FINISHED = 1
_CLASS = re.compile(r"Could not find 'policy/([^']+:[^']+)'")
_CONF = Path(__file__).resolve().parent / "conf"


def run(words: Sequence[str]) -> None:
    """Run what the words say: one job, a sweep, or one of Hydra's informative flags.

    Raises:
        UsageError: anything that a user can get wrong; nothing has been written then.
        SystemExit: with status 1, if no program finished; what was found is written.
    """
    register()
    command = sort_words(words)
    parsed = parse(command.overrides)
    register_classes(parsed)
    if command.flags:
        _inform(command)
        return
    with _composing():
        check_options(parsed, _options(command))
        base = _compose([str(o.input_line) for o in parsed if not o.is_sweep_override()])
        sweep = command.multirun or base.hydra.mode == RunMode.MULTIRUN
        if sweep:
            plan = _plan(base, parsed)
        else:
            check_single(parsed)
            job = prepare(_plain(base), command.overrides)
    if sweep:
        _run_sweep(plan, command)
    elif not _run_once(job):
        raise SystemExit(_NOTHING_FINISHED)


def _run_once(job: Job) -> bool:
    """Run a job, unless it is there already; returns whether a program finished."""
    out = job.out or free_directory("run")
    if job.resume and done({out: job}):
        print(f"kept, as it finished before: {out}")
        return finished_programs(Run(out).summary) > 0
    try:
        finished = job.run(out)
    except KeyboardInterrupt:
        if out.exists():
            raise
        raise KeyboardInterrupt("nothing was written") from None
    _tell(job.trace)
    return finished


def _tell(trace: TraceInput) -> None:
    """Say which liberties the last pass took with a trace."""
    for rule, times in trace.notes.items():
        print(f"{trace.label}: {rule} ({counted(times, 'time')})", file=sys.stderr)


@contextmanager
def _composing() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(_CONF), job_name="tokencake", version_base="1.3"):
        yield


def _options(command: Command) -> dict[str, list[str]]:
    """What each group offers, directories of the user's own included."""
    loader = GlobalHydra.instance().config_loader()
    paths = [word for word in command.overrides if word.startswith("hydra.searchpath=")]
    return {group: loader.get_group_options(group, config_name="config", overrides=paths) for group in GROUPS}


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides=overrides, return_hydra_config=True)
    except HydraException as error:
        if match := _CLASS.search(str(error)):  # chosen in a file
            register_class(match[1])
            return _compose(overrides)
        raise explain(error, _keys(overrides)) from error
    except OmegaConfBaseException as error:
        raise UsageError(one_line(str(error))) from error


def _keys(overrides: list[str]) -> list[str]:
    """Configuration keys there are with the groups that were chosen (for hints)."""
    choices = [word for word in overrides if word.partition("=")[0].lstrip("+") in GROUPS]
    try:
        return [*GROUPS, *flatten(_plain(compose("config", overrides=choices)))]
    except HydraException:
        return []


def _plain(config: DictConfig) -> dict[str, Any]:
    own = {key: config._get_node(key) for key in config if key != "hydra"}
    try:
        plain = OmegaConf.to_container(OmegaConf.create(own), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(one_line(str(error))) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _plan(base: DictConfig, parsed: list[Override]) -> Sweep:
    """Compose and check every job of a sweep before the first one runs."""
    params = parse(f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items())
    register_classes(params)
    typed = {o.get_key_element(): o for o in parsed}
    # As Hydra's sweeper does: a typed sweep of a key takes the place that the experiment gave to the key.
    places = dict.fromkeys([*(o.get_key_element() for o in params), *typed])
    chosen = {o.get_key_element(): o for o in params} | typed
    swept = [chosen[key] for key in places if chosen[key].is_sweep_override() or key not in typed]
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    keys = [o.get_key_element() for o in swept]
    values = [list(o.sweep_string_iterator()) if o.is_discrete_sweep() else [] for o in swept]
    choices = [dict(zip(keys, combination, strict=True)) for combination in itertools.product(*values)]
    typed_words = [fixed + [f"{key}={value}" for key, value in choice.items()] for choice in choices]
    configs = [_plain(_compose(words)) for words in typed_words]
    check_params(config["policy"] for config in configs)
    jobs = [prepare(own_params(config), words) for config, words in zip(configs, typed_words, strict=True)]
    for trace in {job.trace.identity: job.trace for job in jobs}.values():
        trace.check()
        _tell(trace)
    plain = [{k.lstrip("+"): str(v) for k, v in choice.items()} for choice in choices]
    names = job_names(plain)
    out, resume = base.get("out"), bool(base.get("resume"))
    asked = {Path(out) / name: job for name, job in zip(names, jobs, strict=True)} if resume else {}
    kept = done_of_sweep(Path(out), asked) if asked else []
    return Sweep(out, bool(base.get("overwrite")), tuple(names), tuple(plain), resume, len(kept))


def _run_sweep(plan: Sweep, command: Command) -> None:
    out = Path(plan.out) if plan.out else free_directory("sweep")
    if plan.kept:
        what = f"{plan.kept} of {counted(len(plan.jobs), 'job')}"
        print(f"tokencake run: kept {what}, as they finished before", file=sys.stderr)
    # Hydra writes down what it is told: that a sweep was stopped once is nothing about it.
    words = [word for word in command.overrides if word.lstrip("+").partition("=")[0] != "resume"]
    with sweeping(out, plan):
        _hydra_main(["-m", *words, f"hydra.sweep.dir='{out.absolute()}'"])
        raise_failures(out, plan)
    if not finish(out):
        raise SystemExit(_NOTHING_FINISHED)


def _inform(command: Command) -> None:
    """Let Hydra say what its flags ask for; nothing runs."""
    try:
        _hydra_main([*command.flags, *command.overrides])
    except (ValueError, OmegaConfBaseException) as error:  # flags that exclude each other; a value that is missing
        raise UsageError(one_line(str(error))) from error


def _hydra_main(words: list[str]) -> None:
    """Hand over to Hydra's own main, which knows launchers, sweepers and flags; its errors come back as exceptions."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    typed, sys.argv = sys.argv, ["tokencake", *words]
    GlobalHydra.instance().clear()
    try:
        hydra.main(config_path=str(_CONF), config_name="config", version_base="1.3")(_sweep_job)()
    except HydraException as error:
        raise explain(error, []) from error
    finally:
        sys.argv = typed


def _sweep_job(config: DictConfig) -> None:
    """One job of a sweep, perhaps in another process."""
    own = HydraConfig.get()
    sweep_dir = Path(own.sweep.dir)
    plan = json.loads((sweep_dir / SWEEP).read_text(encoding="utf-8"))
    given = dict(word.lstrip("+").split("=", 1) for word in own.overrides.task)
    # A job is known by its values: a sweeper may run jobs in any order.
    names = [n for n, c in zip(plan["jobs"], plan["choices"], strict=True) if c.items() <= given.items()]
    name = names[0] if names else f"job-{own.job.num}"
    out = _from_here(sweep_dir / name)
    if is_done(out):  # the plan has seen that it is this very job
        return
    composed = own_params(_plain(config)) if names else _plain(config)  # a planned job's parameters were checked
    try:
        where = {"out": str(out), "overwrite": False, "resume": True}
        prepare(composed | where, own.overrides.task).run(out)
    except UsageError as error:
        note_failure(sweep_dir, name, error)


def _from_here(path: Path) -> Path:
    """The path as a user would type it: what is written must not name the machine's folders."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
