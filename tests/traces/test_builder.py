"""The frontend API."""

import pytest

from tokencake.traces.builder import AppBuilder, Stage
from tokencake.traces.errors import BadInput
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode, Piece, ToolNode


def test_names_edges_and_defaults() -> None:
    app = AppBuilder("x")
    agent = app.agent("ann")
    first = app.call(agent, prompt=[("s", 5)], output_tokens=3)
    second = app.call(agent, prompt=[first.prompt, ("more", 1)], output_tokens=3, critical=True, importance=2)
    tool = app.func("search", after=[first], duration_s=2, result_tokens=4)
    again = app.func("search", after=[first], duration_s=2, predict_time=9)
    app.edge(tool, second)
    app.edge(tool, second)
    last = app.call(agent, prompt=[("x", 1)], after=[second, again], output_tokens=1, id="last")
    program = app.program("p", arrival_s=1, labels={"k": 1})
    assert [node.id for node in program.nodes] == ["ann", "ann_2", "search", "search_2", "last"]
    assert program.node(second.id).after == ("ann", "search")
    assert program.node(last.id).after == ("ann_2", "search_2")
    assert program.arrival_s == 1.0
    call = program.node("ann")
    assert isinstance(call, LLMNode)
    assert call.agent_type == "ann"
    with pytest.raises(KeyError):
        program.node("nobody")


def test_stages_give_duration_and_estimate() -> None:
    app = AppBuilder("x")
    call = app.call(app.agent("a"), prompt=[("s", 1)], output_tokens=1)
    app.func("rag", after=[call], stages=[Stage("query", 1.0, 0.5), Stage("embed", 2.0, 0.25)])
    app.func("half", after=[call], stages=[Stage("query", 1.0, 0.5), Stage("embed", 2.0)])
    nodes = [node for node in app.program("p").nodes if isinstance(node, ToolNode)]
    assert [(node.duration_s, node.estimate_s) for node in nodes] == [(3.0, 0.75), (3.0, None)]


def test_one_application_makes_many_programs() -> None:
    app = AppBuilder("x")
    tool = app.func("read", after=[], duration_s=1.0, result_tokens=2, result_id="file-{program}")
    app.call(app.agent("a"), prompt=[("system", 3), ("task-{program}", 4), tool.result], output_tokens=1)
    prompts = [resolve(app.program(name))["a"].prompt for name in ("p", "q")]
    assert prompts == [(("system", 3), (f"task-{n}", 4), (f"r:file-{n}", 2)) for n in ("p", "q")]


def test_outputs_and_times_are_of_the_program() -> None:
    app = AppBuilder("x")
    call = app.call(
        app.agent("a"), prompt=[("s", 5)], output_tokens=3, output=[("said-{program}", 2), Piece("end", 1)], at_s=0.5
    )
    app.func("search", after=[call], duration_s=1.0, at_s=2)
    app.call(app.agent("b"), prompt=[call.output], after=[call], output_tokens=1)
    for name, arrival_s in (("p", 0.0), ("q", 10.0)):
        program = app.program(name, arrival_s=arrival_s)
        assert [node.at_s for node in program.nodes] == [arrival_s + 0.5, arrival_s + 2, None]
        assert resolve(program)["b"].prompt == ((f"said-{name}", 2), ("end", 1))
    app.call(app.agent("c"), prompt=[("s", 5)], output_tokens=3, output=[("said", 2)])
    with pytest.raises(BadInput, match=r"output: must add up to output_tokens \(3\), got 2"):
        app.program("r")


def test_errors_come_early_and_name_the_rule() -> None:
    app = AppBuilder("x")
    agent = app.agent("a")
    call = app.call(agent, prompt=[("s", 1)], output_tokens=1, id="one")
    with pytest.raises(BadInput, match="id: must be unique in the program, got 'one'"):
        app.call(agent, prompt=[("s", 1)], output_tokens=1, id="one")
    with pytest.raises(BadInput, match=r"search\.duration_s: is required where there are no stages"):
        app.func("search", after=[call])
    app.edge(call, call)
    with pytest.raises(BadInput, match="must not be part of a dependency cycle"):
        app.program("p")
