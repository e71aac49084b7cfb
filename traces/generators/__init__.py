"""Generators of synthetic traces, by name.

An entry of ``GENERATORS`` is a frozen dataclass of parameters; an instance has ``header()`` and
``programs()``, and equal parameters give equal traces.

>>> trace = GENERATORS["code_writer"](qps=0.5, programs_count=2)
>>> [program.arrival_s for program in trace.programs()]
[0.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.generators.deep_research import DeepResearch
from tokencake.traces.generators.synthetic import Demo
from tokencake.traces.schema import Header, Program


class Generator(Protocol):
    """What a generator offers: a header and as many fresh passes over its programs as wanted."""

    @property
    def programs_count(self) -> int:
        """How many programs it makes."""

    def header(self) -> Header:
        """Return the header of the trace."""

    def programs(self) -> Iterator[Program]:
        """Yield the programs."""


GENERATORS: Mapping[str, type[CodeWriter] | type[DeepResearch] | type[Demo]] = {
    "code_writer": CodeWriter,
    "deep_research": DeepResearch,
    "demo": Demo,
}
