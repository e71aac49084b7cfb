"""Arrival processes: when the programs of a trace arrive.

=========  ==========================================================================
process    arrival of program number i (in file order, from 0)
=========  ==========================================================================
trace      as the trace says
uniform    ``i / qps``
poisson    after i + 1 exponential gaps of mean ``1 / qps``
gamma      after i + 1 gamma gaps of mean ``1 / qps`` and coefficient of variation ``cv``
closed     0: the host starts the next program when one of its ``n`` places is free
=========  ==========================================================================

Times are rounded to a microsecond. A node's ``at_s`` moves with its program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tokencake.traces.rng import stream
from tokencake.traces.schema import Node, Program

PROCESSES = ("trace", "poisson", "gamma", "uniform", "closed")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A rule for arrival times.

    Attributes:
        process: one of ``PROCESSES``.
        qps: programs per second; only ``trace`` and ``closed`` do without.
        cv: coefficient of variation of the gaps of ``gamma`` (1 is Poisson, above 1 is bursty).
        seed: seed of the random processes.

    >>> [round(t, 3) for t in Arrivals("uniform", qps=0.5).times(3)]
    [0.0, 2.0, 4.0]
    """

    process: str = "trace"
    qps: float | None = None
    cv: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the field, the rule and the value.
        """
        if self.process not in PROCESSES:
            raise ValueError(f"arrivals must be one of {', '.join(PROCESSES)}, got {self.process!r}")
        if self.process not in ("trace", "closed") and not (self.qps and 0 < self.qps < float("inf")):
            raise ValueError(f"qps must be > 0 for {self.process} arrivals, got {self.qps}")
        if not 0 < self.cv < float("inf"):
            raise ValueError(f"cv must be > 0, got {self.cv}")

    def times(self, count: int) -> list[float]:
        """Return the first ``count`` arrival times in seconds.

        Raises:
            ValueError: for ``trace``, whose times are the trace's own.
        """
        if self.process == "trace":
            raise ValueError("trace arrivals have no times of their own")
        times = self._endless()
        return [next(times) for _ in range(count)]

    def retime(self, programs: Iterable[Program]) -> Iterator[Program]:
        """Yield the programs, in their order, with new arrival times."""
        if self.process == "trace":
            yield from programs
            return
        for program, arrival_s in zip(programs, self._endless(), strict=False):
            yield moved(program, arrival_s)

    def _endless(self) -> Iterator[float]:
        rng = stream(self.seed, "arrivals")
        now = 0.0
        number = 0
        mean = 1.0 / self.qps if self.qps else 0.0
        while True:
            if self.process == "poisson":
                now += rng.expovariate(1.0) * mean
            elif self.process == "gamma":
                shape = self.cv**-2
                now += rng.gammavariate(shape, mean / shape)
            elif self.process == "uniform":
                assert self.qps is not None
                now = number / self.qps
            yield round(now, 6)
            number += 1


def moved(program: Program, arrival_s: float) -> Program:
    """Return the program arriving at ``arrival_s``, its absolute times moved along."""
    shift = arrival_s - program.arrival_s
    if shift == 0:
        return program
    nodes = tuple([_moved_node(node, shift) for node in program.nodes])
    return replace(program, arrival_s=arrival_s, nodes=nodes)


def _moved_node(node: Node, shift: float) -> Node:
    if node.at_s is None:
        return node
    return replace(node, at_s=max(0.0, round(node.at_s + shift, 6)))
