"""Each rule of the format, with the error that breaking it gives."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokencake.traces.errors import BadInput
from tokencake.traces.generators import GENERATORS
from tokencake.traces.io import load_trace, read_trace, write_trace
from tokencake.traces.schema import Header, LLMNode, Piece, Program
from tokencake.traces.validate import program_from_json, validate_program

HEAD = '{"format": "tokencake-trace", "version": 1, "name": "demo"}\n'
LLM: dict[str, Any] = {"id": "a", "kind": "llm", "prompt": [["s", 5]], "output_tokens": 2}
TOOL: dict[str, Any] = {"id": "t", "kind": "tool", "after": ["a"], "tool": "search", "duration_s": 1.5}
NEXT: dict[str, Any] = {"id": "b", "kind": "llm", "after": ["t"], "prompt": [{"prompt_of": "a"}], "output_tokens": 2}


def program(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"program": "p", "app": "x", "arrival_s": 0.5, "nodes": list(nodes), **changes}


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}


CASES = [
    (program(LLM | {"output_tokens": -1}), "nodes[0].output_tokens: must be >= 1, got -1"),
    (program(LLM | {"output_tokens": 0}), "nodes[0].output_tokens: must be >= 1, got 0"),
    (program(LLM | {"output_tokens": True}), "nodes[0].output_tokens: must be an integer, got True"),
    (program(LLM | {"output_tokens": 2.0}), "nodes[0].output_tokens: must be an integer, got 2.0"),
    (program(LLM | {"output_tokens": 10**10}), "nodes[0].output_tokens: must be <= 1000000000, got 10000000000"),
    (program(LLM | {"output_tokens": 1 << 4000}), "must be <= 1000000000, got 'about 2**4001'"),
    (program(LLM | {"max_tokens": 1}), "nodes[0].max_tokens: must be >= output_tokens (2), got 1"),
    (program(LLM | {"prompt": []}), "nodes[0].prompt: must have at least 1 token, got 0"),
    (program(LLM | {"prompt": [["s", 0]]}), "nodes[0].prompt: must have at least 1 token, got 0"),
    (program(LLM | {"prompt": [["s", 10**9], ["u", 1]]}), "nodes[0].prompt: must have at most 1000000000 tokens"),
    (program(LLM | {"prompt": [["s"]]}), "nodes[0].prompt[0]: must be [content id, tokens] or a reference"),
    (program(LLM | {"prompt": [["", 1]]}), "nodes[0].prompt[0][0]: must be a non-empty string"),
    (program(LLM | {"prompt": [{"prompt_of": "a", "x": 1}]}), "nodes[0].prompt[0]: must have exactly one key"),
    (program(LLM | {"prompt": [{"prompt_of": "a"}]}), "nodes[0].prompt[0]: must refer to a node that this one comes"),
    (program(LLM | {"output": [["o", 1]]}), "nodes[0].output: must add up to output_tokens (2), got 1"),
    (program(LLM | {"delay_s": -0.5}), "nodes[0].delay_s: must be >= 0, got -0.5"),
    (program(LLM | {"at_s": 1e10}), "nodes[0].at_s: must be <= 1e+09, got 10000000000.0"),
    (program(LLM | {"critical": 1}), "nodes[0].critical: must be true or false, got 1"),
    (program(LLM | {"outptu_tokens": 1}), "nodes[0].outptu_tokens: unknown key; did you mean 'output_tokens'?"),
    (program(LLM | {"duration_s": 1}), "nodes[0].duration_s: unknown key"),
    (program(LLM | {"labels": {"a": [1e999]}}), "nodes[0].labels.a[0]: must be finite, got inf"),
    (program(LLM | {"id": "a\nb"}), "nodes[0].id: must be a non-empty string of printable characters"),
    (program(LLM | {"agent": "x" * 1001}), "nodes[0].agent: must have at most 1000 characters"),
    (program(LLM | {"kind": "human"}), "nodes[0].kind: must be 'llm' or 'tool', got 'human'"),
    (program(without(LLM, "prompt")), "nodes[0].prompt: is required"),
    (program(LLM, LLM), "nodes[1].id: must be unique in the program, got 'a'"),
    (program(LLM | {"after": ["z"]}), "nodes[0].after[0]: must name a node of the same program, got 'z'"),
    (program(LLM, TOOL | {"after": ["a", "a"]}), "nodes[1].after[1]: must not name a node twice, got 'a'"),
    (program(LLM | {"after": ["t"]}, TOOL), "nodes[0].after: must not be part of a dependency cycle, got ['t']"),
    (program(LLM | {"after": ["a"]}), "nodes[0].after: must not be part of a dependency cycle"),
    (program(LLM, TOOL, NEXT | {"prompt": [{"output_of": "t"}]}), "nodes[2].prompt[0]: must refer to an llm node"),
    (program(LLM, TOOL, NEXT | {"prompt": [{"result_of": "a"}]}), "nodes[2].prompt[0]: must refer to a tool node"),
    (program(LLM, NEXT | {"after": []}), "nodes[1].prompt[0]: must refer to a node that this one comes after, got 'a'"),
    (program(LLM, TOOL | {"duration_s": None}), "nodes[1].duration_s: must be a number, got None"),
    (
        program(LLM, TOOL | {"stages": [{"name": "q", "duration_s": 1}]}),
        "stages: must add up to duration_s (1.5), got 1",
    ),
    (program(LLM, TOOL | {"stages": [{"name": "q"}]}), "nodes[1].stages[0].duration_s: is required"),
    (program(), "nodes: must have at least 1 node"),
    (program(LLM, arrival_s=-1), "arrival_s: must be >= 0, got -1"),
    (program(LLM, colour="red"), "colour: unknown key"),
    (without(program(LLM), "app"), "app: is required"),
]


@pytest.mark.parametrize(("value", "message"), CASES, ids=[message for _, message in CASES])
def test_a_broken_rule_is_named(tmp_path: Path, value: dict[str, Any], message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(HEAD + "\n" + json.dumps(value) + "\n")
    with pytest.raises(BadInput) as caught:
        load_trace(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert caught.value.line == 3


FILES = [
    ("", ":1: must not be empty: the first line is a header"),
    ("\n\n", ":1: must not be empty: the first line is a header"),
    (json.dumps(program(LLM)), ":1: format: the first line must be a header with format 'tokencake-trace', got None"),
    ('{"format": "other", "version": 1, "name": "x"}', "format: the first line must be a header"),
    ('{"format": "tokencake-trace", "version": 2, "name": "x"}', ":1: version: must be 1, the only version there is"),
    ('{"format": "tokencake-trace", "name": "x"}', ":1: version: is required"),
    ('{"format": "tokencake-trace", "version": 1}', ":1: name: is required"),
    (HEAD + '{"program": "p",\n', ":2: must be JSON (Expecting property name"),
    (HEAD + '{"program": "p", "app": "x", "arrival_s": NaN}\n', ":2: arrival_s: must be finite, got nan"),
    (HEAD + '{"program": "p", "program": "q"}\n', ":2: program: must not stand twice in one object"),
    (HEAD + "[" * 100_000 + "\n", ":2: must be JSON of reasonable depth"),
    (HEAD + "1" * 5000 + "\n", ":2: must be JSON with numbers of reasonable length"),
    (HEAD + 2 * (json.dumps(program(LLM)) + "\n"), ":3: program: must be unique in the trace, got 'p'"),
]


def test_two_nodes_of_a_trace_cannot_have_one_name(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [program(LLM | {"id": "b/c"}), program(LLM | {"id": "c"}, program="p/b")]
    path.write_text(HEAD + "".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadInput) as caught:
        load_trace(path)
    assert (
        str(caught.value) == f"{path}:3: nodes[0].id: must not make p/b/c, the name of a node of program 'p', got 'c'"
    )
    path.write_text(HEAD + "".join(json.dumps(line | {"program": f"{i}/p"}) + "\n" for i, line in enumerate(lines)))
    assert len(load_trace(path)[1]) == 2


@pytest.mark.parametrize(("text", "message"), FILES, ids=[message for _, message in FILES])
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_trace(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="cannot be read"):
        read_trace(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    with pytest.raises(BadInput, match=r"must be UTF-8 \(byte 1 is not\)"):
        read_trace(tmp_path / "latin.jsonl")


def test_a_missing_agent_type_is_the_agent_else_the_app() -> None:
    agents = [{}, {"agent": "ann"}, {"agent_type": "coder"}, {"agent": "ann", "agent_type": "coder"}]
    found = [program_from_json(program(LLM | agent)).nodes[0] for agent in agents]
    assert [(n.agent, n.agent_type) for n in found] == [  # type: ignore[union-attr]
        ("x", "x"),
        ("ann", "ann"),
        ("coder", "coder"),
        ("ann", "coder"),
    ]


def test_a_reference_cannot_explode() -> None:
    twice = [
        LLM | {"id": f"n{i}", "after": [f"n{i - 1}"], "prompt": [{"prompt_of": f"n{i - 1}"}] * 2} for i in range(1, 64)
    ]
    with pytest.raises(BadInput, match="must resolve to at most 100000 pieces"):
        program_from_json(program(LLM | {"id": "n0"}, *twice))


def test_what_was_there_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    demo = GENERATORS["demo"](programs_count=2)
    write_trace(path, demo.header(), demo.programs())
    before = path.read_bytes()

    def failing() -> Iterator[Program]:
        yield from demo.programs()
        yield Program("bad", "x", 0.0, (LLMNode("a", (), "x", "x", (Piece("s", 1),), 0),))

    with pytest.raises(BadInput, match="is already there"):
        write_trace(path, demo.header(), demo.programs())
    with pytest.raises(BadInput, match=r"program 'bad'\.nodes\[0\]\.output_tokens: must be >= 1, got 0"):
        write_trace(path, demo.header(), failing(), overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput, match="cannot be written"):
        write_trace(tmp_path / "no" / "t.jsonl", demo.header(), [])
    with pytest.raises(BadInput, match="cannot be written"):
        write_trace(tmp_path / ("x" * 300), demo.header(), [])
    write_trace(path, Header("other"), [], overwrite=True)
    assert load_trace(path) == (Header("other"), [])


def test_objects_in_memory_follow_the_same_rules() -> None:
    with pytest.raises(BadInput, match=r"^nodes\[0\]\.prompt\[0\]\[1\]: must be an integer, got 1\.5$"):
        validate_program(Program("p", "x", 0.0, (LLMNode("a", (), "x", "x", (Piece("s", 1.5),), 1),)))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"labels\.k: must be a JSON value"):
        validate_program(Program("p", "x", 0.0, (LLMNode("a", (), "x", "x", (Piece("s", 1),), 1),), {"k": object()}))


def test_an_error_is_one_line_and_can_be_pickled() -> None:
    error = BadInput("must be\nnice", field="a", value="x" * 200, file="dir/f\n.jsonl", line=7)
    assert "\n" not in str(error)
    assert len(str(error)) < 120
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.file, copy.line, copy.field, copy.value, copy.rule) == (
        error.file, error.line, error.field, error.value, error.rule,
    )  # fmt: skip
