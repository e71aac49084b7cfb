"""The claims experiment: its draws, its intervals, its figure, and the direction of its verdicts."""

import pytest

from tokencake.experiments.claims import VARIANTS, interval, run, trace
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


def test_interval():
    """Values 1 to 5: mean 3, s = 1.581, half width 2.776 s / sqrt(5)."""
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 1.963), abs=1e-3)


def test_variants_exist():
    for name, params in VARIANTS.values():
        registry.create(name, params)


@pytest.mark.parametrize("app", ["code_writer", "deep_research"])
def test_direction(app):
    """Memory is short and tools last seconds: TokenCake ends programs earlier, and computes less again."""
    programs = trace(app, 1.0, 0)
    stock, paper = (run(programs, name, 0) for name in ("vllm", "tokencake"))
    assert paper.latency_s < stock.latency_s
    assert paper.computed < stock.computed
    assert paper.seconds["tools"] == pytest.approx(stock.seconds["tools"])  # the same sum in another order


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
