"""Any valid program survives the file, and nothing but BadInput comes out of a broken one."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tokencake.traces.encode import program_to_json
from tokencake.traces.errors import BadInput
from tokencake.traces.files import parse_json
from tokencake.traces.generators import GENERATORS
from tokencake.traces.io import load_trace, programs_sha256, read_trace, trace_sha256, write_trace
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import (
    Header,
    LLMNode,
    OutputOf,
    Piece,
    Program,
    PromptOf,
    ResultOf,
    Stage,
    ToolNode,
)
from tokencake.traces.validate import header_from_json, program_from_json, validate_program

HEADER = Header("t", labels={"seed": 3})
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
seconds = st.floats(0, 1e9)
maybe_seconds = st.none() | seconds
labels = st.dictionaries(
    names, st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | names
)
pieces = st.builds(Piece, names, st.integers(0, 10**6))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    nodes: list[LLMNode | ToolNode] = []
    ids = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    ancestors: dict[str, set[str]] = {}
    for i, node_id in enumerate(ids):
        after = tuple(draw(st.lists(st.sampled_from(ids[:i]), unique=True))) if i else ()
        above = {a for direct in after for a in {direct, *ancestors[direct]}}
        ancestors[node_id] = above
        common = {
            "delay_s": draw(seconds),
            "at_s": draw(maybe_seconds),
            "importance": draw(st.floats(-1e9, 1e9)) + 0.0,
            "critical": draw(st.booleans()),
            "labels": draw(labels),
        }
        if draw(st.booleans()):
            stages = tuple(draw(st.lists(st.builds(Stage, names, st.floats(0, 1e6), maybe_seconds), max_size=2)))
            duration_s = sum(s.duration_s for s in stages) if stages else draw(seconds)
            result_id, tokens = draw(st.none() | names), draw(st.integers(0, 10**6))
            node = ToolNode(
                node_id, after, draw(names), duration_s, draw(maybe_seconds), tokens, result_id, stages=stages, **common
            )
        else:
            refs: list[st.SearchStrategy[object]] = [pieces]
            by_id = {n.id: n for n in nodes}
            for a in sorted(above):
                if isinstance(by_id[a], LLMNode):
                    refs += [st.just(PromptOf(a)), st.just(OutputOf(a))]
                else:
                    refs.append(st.just(ResultOf(a)))
            prompt = (Piece(draw(names), draw(st.integers(1, 10**6))), *draw(st.lists(st.one_of(refs), max_size=4)))
            output = draw(
                st.none() | st.lists(pieces, min_size=1, max_size=2).filter(lambda p: sum(x.tokens for x in p))
            )
            tokens = sum(p.tokens for p in output) if output else draw(st.integers(1, 10**6))
            limit = draw(st.none() | st.integers(tokens, 2 * tokens))
            node = LLMNode(
                node_id, after, draw(names), draw(names), prompt, tokens, limit,
                None if output is None else tuple(output), draw(st.none() | names), **common,
            )  # fmt: skip
        nodes.append(node)
    order = draw(st.permutations(nodes))
    return Program(draw(names), draw(names), draw(seconds), tuple(order), draw(labels))


@given(st.lists(programs(), max_size=3, unique_by=lambda p: p.program), st.sampled_from(["", ".gz", ".zst"]))
def test_what_is_written_is_read(listed: list[Program], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.jsonl{suffix}"
        assert write_trace(path, HEADER, listed) == len(listed)
        assert load_trace(path) == (HEADER, listed)
        assert trace_sha256(path) == programs_sha256(HEADER, listed)
        trace = read_trace(path)
        assert list(trace) == list(trace) == listed
        again = Path(folder) / f"again.jsonl{suffix}"
        write_trace(again, HEADER, listed)
        assert again.read_bytes() == path.read_bytes()
        assert sorted(p.name for p in Path(folder).iterdir()) == sorted([path.name, again.name])


@given(programs())
def test_validation_is_the_identity_on_valid_programs(program: Program) -> None:
    assert validate_program(program) == program
    for call_id, content in resolve(program).items():
        assert content.prompt_tokens == sum(tokens for _, tokens in content.prompt) >= 1
        assert sum(tokens for _, tokens in content.output) == program.node(call_id).output_tokens  # type: ignore[union-attr]
        assert all(tokens > 0 for _, tokens in content.prompt + content.output)


SAMPLE = program_to_json(next(iter(GENERATORS["demo"](programs_count=1, seed=4).programs())))


@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_a_broken_program_is_bad_input_or_valid(broken, rng, times) -> None:
    value = SAMPLE
    for _ in range(times):
        if isinstance(value, dict) and value:
            value = broken(value, rng)
    line = json.dumps(value).encode()
    try:
        program = program_from_json(parse_json(line))
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert program_from_json(program_to_json(program)) == program
        resolve(program)


@given(st.binary(max_size=300), st.sampled_from(["raw", "gzip", "zstd", "second line"]))
def test_random_bytes_are_bad_input(data: bytes, how: str) -> None:
    if how == "gzip":
        data = gzip.compress(data)
    elif how == "zstd":
        data = zstandard.compress(data)
    elif how == "second line":
        data = b'{"format":"tokencake-trace","version":1,"name":"x"}\n' + data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        path.write_bytes(data)
        try:
            _, found = load_trace(path)
        except BadInput as error:
            assert str(error).startswith(str(path))
        else:
            assert found == []


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_every_truncation_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.jsonl{suffix}"
    demo = GENERATORS["demo"](programs_count=3)
    write_trace(path, demo.header(), demo.programs())
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput):
            load_trace(path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_no_other_value_is_a_header_or_program(value: object) -> None:
    for check in (header_from_json, program_from_json):
        with pytest.raises(BadInput):
            check(value)
