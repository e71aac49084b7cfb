"""The trace that a run replays: a file (ours, or one that an importer knows) or a generator."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from tokencake.experiments.errors import UsageError
from tokencake.experiments.keys import shortened
from tokencake.experiments.settings import build
from tokencake.policies.hints import did_you_mean
from tokencake.traces.arrivals import Arrivals
from tokencake.traces.errors import BadInput
from tokencake.traces.generators import GENERATORS, Generator
from tokencake.traces.importers import detect_and_import, native
from tokencake.traces.io import programs_sha256, trace_sha256
from tokencake.traces.schema import Program

FILE_TRACE: Mapping[str, Any] = {"source": "file", "path": None, "arrivals": "trace", "qps": None, "cv": 2.0}
"""Keys of a file's `trace` section, and their defaults."""


class TraceInput(Protocol):
    """Programs, as often as wanted, with what names them in results."""

    @property
    def name(self) -> str:
        """The name in its header."""

    @property
    def label(self) -> str:
        """What messages and tables call it."""

    @property
    def count(self) -> int | None:
        """How many programs it has, if that is known without reading it."""

    @property
    def identity(self) -> object:
        """Equal for equal inputs."""

    @property
    def sha256(self) -> str:
        """Digest of the trace, arrival times of the run not applied."""

    def __iter__(self) -> Iterator[Program]:
        """The programs, with the arrival times of this run."""

    @property
    def notes(self) -> Mapping[str, int]:
        """Liberties taken with the input in the last pass, and how often."""

    def check(self) -> None:
        """Read all of it once; raises what is wrong with it."""


class FileTrace:
    """A trace file, or whatever an importer understands."""

    def __init__(self, path: Path, arrivals: Arrivals) -> None:
        """Open the file and find out what it is.

        Raises:
            BadInput: it cannot be read, nobody understands it, or it holds no program.
        """
        self._path = path
        self._arrivals = arrivals
        header, programs, self._report = detect_and_import(path)
        if next(programs, None) is None:
            raise BadInput("must hold at least 1 program to run, and holds none", file=path)
        self._name = header.name
        self._count: int | None = None
        self._late = 0

    @property
    def name(self) -> str:
        """The name in the trace's header."""
        return self._name

    @property
    def label(self) -> str:
        """The file's name, as tables have it."""
        return shortened({0: str(self._path)})[0]

    @property
    def count(self) -> int | None:
        """Known where programs arrive as recorded: then all are read once before they are replayed."""
        self._look_ahead()
        return self._count

    @property
    def identity(self) -> object:
        """The path."""
        return self._path

    @property
    def sha256(self) -> str:
        """Digest of the uncompressed trace file; of what an import would write, for others' files."""
        header, programs, report = detect_and_import(self._path)
        return trace_sha256(self._path) if report.source == native.SOURCE else programs_sha256(header, programs)

    @property
    def notes(self) -> Mapping[str, int]:
        """Rules for odd data that the last full pass had to apply, and how often."""
        late = {"program stands behind one that arrives later: sorted by arrival": self._late} if self._late else {}
        return {**self._report.rules, **late}

    def __iter__(self) -> Iterator[Program]:
        """The programs, with the arrival times of this run; in order of arrival, whatever their order in the file."""
        self._look_ahead()
        _, programs, self._report = detect_and_import(self._path)
        # Only a file that needs it is held in memory as a whole.
        ordered = sorted(programs, key=attrgetter("arrival_s")) if self._late else programs
        return self._arrivals.retime(ordered)

    def _look_ahead(self) -> None:
        """Count the programs, and those out of order, where the order of arrival is the file's."""
        if self._arrivals.process != "trace" or self._count is not None:
            return
        latest, count, late = 0.0, 0, 0
        for program in detect_and_import(self._path)[1]:
            count += 1
            late += program.arrival_s < latest
            latest = max(latest, program.arrival_s)
        self._count, self._late = count, late

    def check(self) -> None:
        """Validate every line."""
        for _ in self:
            pass


@dataclass(frozen=True)
class GeneratedTrace:
    """The programs of a generator."""

    source: str
    generator: Generator

    @property
    def name(self) -> str:
        """The name in the trace's header."""
        return self.generator.header().name

    @property
    def label(self) -> str:
        """The same."""
        return self.name

    @property
    def count(self) -> int:
        """As many as were asked for."""
        return self.generator.programs_count

    @property
    def identity(self) -> object:
        """The generator with its parameters."""
        return self.generator

    @property
    def sha256(self) -> str:
        """Digest of the file that `tokencake trace generate` would write."""
        return programs_sha256(self.generator.header(), self.generator.programs())

    def __iter__(self) -> Iterator[Program]:
        """The programs; their arrival times are the generator's."""
        return self.generator.programs()

    @property
    def notes(self) -> Mapping[str, int]:
        """None: nothing is odd about made programs."""
        return {}

    def check(self) -> None:
        """Nothing: a generator makes valid programs, and its parameters were checked when it was made."""


def parameters(generator: type) -> dict[str, Any]:
    """A generator's parameters and their defaults; the seed is the run's."""
    return {field.name: field.default for field in fields(generator) if field.name != "seed"}


def check_arrivals(values: Mapping[str, Any], concurrency: int, typed: Collection[str]) -> None:
    """Refuse a rule of arrivals that nothing would follow.

    Args:
        values: The `trace` section.
        concurrency: Programs at once; 0: by arrival time.
        typed: Keys that were typed, for values that say what is the default anyway.

    Raises:
        UsageError: naming the key that has no effect.
    """
    source, arrivals, qps = str(values.get("source")), values.get("arrivals"), values.get("qps")
    if arrivals == "closed" and not concurrency:
        raise UsageError("workload.concurrency must be > 0 with trace.arrivals=closed, got 0")
    if not concurrency:
        if source == "file" and arrivals == "trace" and qps is not None:
            rule = "a file's programs arrive as recorded; add trace.arrivals=poisson (or uniform, gamma)"
            raise UsageError(f"trace.qps={qps}: {rule}")
        return
    defaults = parameters(GENERATORS[source]) if source in GENERATORS else FILE_TRACE
    rule = f"without effect with workload.concurrency={concurrency}: the next program arrives when one ends"
    if arrivals != "closed" and ("trace.arrivals" in typed or arrivals != defaults.get("arrivals")):
        raise UsageError(f"trace.arrivals={arrivals}: {rule} (trace.arrivals=closed)")
    if qps is not None and ("trace.qps" in typed or (arrivals != "closed" and qps != defaults.get("qps"))):
        raise UsageError(f"trace.qps={qps}: {rule}")


def open_input(values: Mapping[str, Any], seed: int) -> TraceInput:
    """The trace that a configuration's `trace` section names.

    Raises:
        UsageError: unknown keys or values.
        BadInput: the file is missing or its first line is wrong.
    """
    params = {key: value for key, value in values.items() if key != "source"}
    source = values.get("source")
    if "seed" in params:
        raise UsageError("trace.seed: unknown key; a trace is drawn with the run's seed (seed=N)")
    if source == "file":
        return _open_file(params, seed)
    if source not in GENERATORS:
        raise UsageError(
            f"trace.source={source}: unknown generator; {did_you_mean(str(source), ['file', *GENERATORS])}"
        )
    return GeneratedTrace(str(source), make_generator(str(source), params | {"seed": seed}))


def make_generator(name: str, params: Mapping[str, Any], where: str = "trace") -> Generator:
    """A generator with checked parameters.

    Raises:
        UsageError: naming the parameter, the rule and the value.
    """
    return build(GENERATORS[name], params, where)


def _open_file(params: Mapping[str, Any], seed: int) -> FileTrace:
    path = params.get("path")
    if not isinstance(path, str):
        raise UsageError(
            "trace.path: missing; give a file, or choose a generator: trace=" + ", trace=".join(GENERATORS)
        )
    process = {key: value for key, value in params.items() if key not in ("path", "arrivals")}
    arrivals = build(Arrivals, process | {"process": params.get("arrivals", "trace"), "seed": seed}, "trace")
    return FileTrace(Path(path), arrivals)
