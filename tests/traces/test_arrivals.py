"""Arrival processes."""

import math
from statistics import mean, stdev

import pytest

from tokencake.traces.arrivals import PROCESSES, Arrivals, moved
from tokencake.traces.generators.synthetic import Demo
from tokencake.traces.schema import LLMNode, Piece, Program


@pytest.mark.parametrize(("process", "cv"), [("poisson", 1.0), ("gamma", 3.0), ("gamma", 0.5)])
def test_gaps_have_the_mean_and_variation_asked_for(process: str, cv: float) -> None:
    times = Arrivals(process, qps=4.0, cv=cv, seed=5).times(20_000)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert min(gaps) >= 0
    assert mean(gaps) == pytest.approx(0.25, rel=0.1)
    assert stdev(gaps) / mean(gaps) == pytest.approx(cv, rel=0.1)


def test_the_seed_alone_decides() -> None:
    for process in ("poisson", "gamma"):
        one, same, other = (Arrivals(process, qps=1.0, seed=seed).times(50) for seed in (1, 1, 2))
        assert one == same != other
        assert Arrivals(process, qps=1.0, seed=1).times(10) == one[:10]


def test_retiming_keeps_everything_but_the_times() -> None:
    programs = list(Demo(programs_count=5).programs())
    for process in PROCESSES:
        retimed = list(Arrivals(process, qps=2.0).retime(programs))
        assert [(p.program, p.nodes) for p in retimed] == [(p.program, p.nodes) for p in programs]
    assert list(Arrivals("trace").retime(programs)) == programs
    assert [p.arrival_s for p in Arrivals("closed").retime(programs)] == [0.0] * 5
    assert [p.arrival_s for p in Arrivals("uniform", qps=2.0).retime(programs)] == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_absolute_times_move_with_their_program() -> None:
    node = LLMNode("a", (), "x", "x", (Piece("s", 1),), 1, at_s=12.5)
    program = moved(Program("p", "x", 10.0, (node,)), 3.0)
    assert (program.arrival_s, program.nodes[0].at_s) == (3.0, 5.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"process": "sometimes"}, "arrivals must be one of trace, poisson, gamma, uniform, closed, got 'sometimes'"),
        ({"process": "poisson"}, "qps must be > 0 for poisson arrivals, got None"),
        ({"process": "uniform", "qps": -1.0}, "qps must be > 0 for uniform arrivals, got -1.0"),
        ({"process": "gamma", "qps": 1.0, "cv": 0.0}, "cv must be > 0, got 0.0"),
        ({"process": "uniform", "qps": math.inf}, "qps must be > 0"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arrivals(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no times of their own"):
        Arrivals().times(1)
