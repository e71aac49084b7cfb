"""The claims experiment: its draws, its intervals, its figure, and the direction of its verdicts."""

import math

import pytest

from tokencake.experiments.claims import VARIANTS, cell, needed, run, table, tally, trace
from tokencake.experiments.outcome import PARTS
from tokencake.experiments.plots.regime_map import draw
from tokencake.policies import registry
from tokencake.traces.schema import ToolNode


def tools(programs):
    return [node for program in programs for node in program.nodes if isinstance(node, ToolNode)]


@pytest.mark.parametrize("app", ["code_writer", "deep_research"])
def test_tools_of_another_length(app):
    """Durations have the mean that is asked for, half of it as deviation, and it is their estimate."""
    drawn = tools(trace(app, 1.0, 0, 2.0))
    durations = [tool.duration_s for tool in drawn]
    mean = sum(durations) / len(durations)
    assert mean == pytest.approx(2.0, rel=0.1)
    assert (sum((d - mean) ** 2 for d in durations) / len(durations)) ** 0.5 == pytest.approx(1.0, rel=0.15)
    assert {tool.estimate_s for tool in drawn} == {2.0}
    assert durations == [tool.duration_s for tool in tools(trace(app, 0.1, 0, 2.0))]  # the load does not touch them


def test_cell():
    """Values 1 to 5: mean 3, s = 1.581, half width 2.776 s / sqrt(5)."""
    assert cell([1.0, 2.0, 3.0, 4.0, 5.0], ".3f") == "3.000 ± 1.963"
    assert cell([1.0, 2.0, 3.0, 4.0, 5.0], "+.1f") == "+3.0 ± 2.0"
    assert (cell([math.inf] * 2), cell([math.inf, 2.0, 3.0], ".2f")) == ("never", "≥ 2.00")
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_tally():
    """What an interval says: it is below 0, above, or includes it; differences that nobody would notice are ties."""
    cells = [[(-3.0, 2.0), (-3.0, 3.0), (-0.4, 0.1)], [(0.0, 0.0), (5.0, 4.0), (0.4, 0.0)]]
    assert tally(cells) == {"wins": 1, "losses": 1, "ties": 4}


def test_variants_exist():
    for name, params in VARIANTS.values():
        registry.create(name, params)


@pytest.mark.parametrize("app", ["code_writer", "deep_research"])
def test_direction(app):
    """Memory is short and tools last seconds: TokenCake ends programs earlier, and computes less again."""
    programs = trace(app, 1.0, 0)
    stock, paper = (run(programs, name, 0) for name in ("vllm", "tokencake"))
    assert paper.latency_s < stock.latency_s
    assert needed(programs, 0) < paper.computed < stock.computed
    assert stock.seconds["loads"] == 0 < paper.seconds["loads"]
    for outcome in (stock, paper):
        assert set(outcome.seconds) == set(PARTS)
        assert min(outcome.seconds.values()) >= 0
        assert sum(outcome.seconds.values()) == pytest.approx(outcome.latency_s)


def test_seconds_of_a_chain_are_those_of_its_calls_and_tools():
    """With all of memory to itself, nobody queues, and what is waited for are the longest tools and the calls."""
    programs = trace("deep_research", 0.05, 0, 5.0)[:1]
    outcome = run(programs, "vllm", 0, blocks=40_000)
    assert outcome.seconds["queue"] == pytest.approx(0.0, abs=0.2)  # a call waits for the step in flight
    assert outcome.seconds["queue again"] == 0
    assert outcome.seconds["decode"] + outcome.seconds["tools"] > 0.95 * outcome.latency_s


def test_ample_memory_is_a_tie():
    """With memory for everything there is nothing to gain."""
    programs = trace("deep_research", 0.05, 0)
    stock, paper = (run(programs, name, 0, blocks=40_000) for name in ("vllm", "tokencake"))
    assert paper.latency_s == pytest.approx(stock.latency_s, rel=0.02)


def test_the_map_is_drawn(tmp_path):
    gains = [[(10.0, 2.0), (-3.0, 5.0)], [(0.0, 1.0), (40.0, 1.0)]]
    written = draw(
        {"app": (gains, [[0.1, 2.0], [float("inf"), 1.0]])}, (0.1, 1.0), (100, 200), tmp_path / "m", ("png",)
    )
    assert [path.name for path in written] == ["m.png"]
    assert written[0].stat().st_size > 5000
