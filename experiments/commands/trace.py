"""`tokencake trace`: make traces, and look at them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError
from tokencake.experiments.inputs import make_generator
from tokencake.experiments.words import counted
from tokencake.policies.hints import did_you_mean
from tokencake.traces.generators import GENERATORS
from tokencake.traces.importers import IMPORTERS, detect_and_import, import_any
from tokencake.traces.inspection import describe, validate_trace
from tokencake.traces.io import write_trace


def run(words: Sequence[str]) -> None:
    """Do what the words say.

    Raises:
        UsageError: an unknown generator or parameter.
        BadInput: a broken file, or an output that is there already.
    """
    parser = Parser(prog="tokencake trace", description="Makes traces, and looks at them.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    command = actions.add_parser("import", help=f"make a trace of a recording ({', '.join(IMPORTERS)})")
    command.add_argument("source", type=Path, help="file or folder; what it is, is found out")
    _add_output(command)
    command = actions.add_parser("generate", help=f"make a synthetic trace ({', '.join(GENERATORS)})")
    command.add_argument("generator", help=", ".join(GENERATORS))
    _add_output(command)
    command.add_argument(
        "params", nargs="*", default=[], metavar="KEY=VALUE", help="parameters, such as qps=0.5 seed=1"
    )
    command = actions.add_parser("inspect", help="say what is in a trace or a recording")
    command.add_argument("source", type=Path)
    command.add_argument("--json", action="store_true", help="for programs to read")
    command = actions.add_parser("validate", help="check traces against the format, line by line")
    command.add_argument("sources", type=Path, nargs="+", metavar="FILE")
    chosen = parser.parse_args(words)
    _ACTIONS[chosen.action](chosen)


def _add_output(command: Any) -> None:
    command.add_argument("out", type=Path, help="trace file to write (.jsonl, .jsonl.gz, .jsonl.zst)")
    command.add_argument("--overwrite", action="store_true", help="replace the file if it is there")


def _import(chosen: Any) -> None:
    report = import_any(chosen.source, chosen.out, overwrite=chosen.overwrite)
    programs, calls = counted(report["programs"], "program"), counted(report["calls"], "call")
    print(f"{chosen.out}: {programs}, {calls} from {report['source']}")
    for rule, times in report["rules"].items():
        print(f"  {rule}: {counted(times, 'time')}")


def _generate(chosen: Any) -> None:
    if chosen.generator not in GENERATORS:
        hint = did_you_mean(chosen.generator, GENERATORS)
        raise UsageError(f"unknown generator {chosen.generator!r}; {hint}")
    generator = make_generator(chosen.generator, _params(chosen.params), where=chosen.generator)
    count = write_trace(chosen.out, generator.header(), generator.programs(), overwrite=chosen.overwrite)
    print(f"{chosen.out}: {counted(count, 'program')}")


def _params(words: Sequence[str]) -> dict[str, Any]:
    params = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise UsageError(f"{word!r}: not KEY=VALUE")
        try:
            params[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            params[key] = value
    return params


def _inspect(chosen: Any) -> None:
    header, programs, report = detect_and_import(chosen.source)
    facts = describe(header, programs) | {"source": report.source, "import_rules": dict(sorted(report.rules.items()))}
    if chosen.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts, indent=0)


def _print(facts: Mapping[str, Any], indent: int) -> None:
    width = max((len(key) for key in facts), default=0)
    for key, value in facts.items():
        if not isinstance(value, Mapping):
            print(f"{'':{indent}}{key:{width}}  {_number(value)}")
        elif any(isinstance(item, Mapping) for item in value.values()):
            print(f"{'':{indent}}{key}")
            _print(value, indent + 2)
        else:
            inner = ", ".join(f"{k} {_number(v)}" for k, v in value.items()) or "-"
            print(f"{'':{indent}}{key:{width}}  {inner}")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _validate(chosen: Any) -> None:
    for source in chosen.sources:
        counts = validate_trace(source)
        print(f"{source}: valid, " + ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()))


_ACTIONS: Mapping[str, Callable[[Any], None]] = {
    "import": _import,
    "generate": _generate,
    "inspect": _inspect,
    "validate": _validate,
}
