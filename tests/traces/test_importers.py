"""Importers on small inputs written here: structure, odd data, detection, broken input."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.traces.errors import BadInput
from tokencake.traces.importers import (
    IMPORTERS,
    detect_and_import,
    hashes,
    import_any,
    mooncake,
    odd,
    request_list,
    weka,
    weka_program,
    weka_session,
)
from tokencake.traces.inspection import inspect_trace, validate_trace
from tokencake.traces.io import load_trace
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ToolNode
from tokencake.traces.validate import validate_program


def imported(path: Path) -> tuple[list[Program], dict[str, int]]:
    _, programs, report = detect_and_import(path)
    found = list(programs)
    assert report.programs == len(found)
    assert report.calls == sum(isinstance(node, LLMNode) for program in found for node in program.nodes)
    for program in found:
        assert validate_program(program) == program
    return found, report.rules


def request(t: float, tokens: int, ids: list[int], out: int = 10, **more: Any) -> dict[str, Any]:
    return {"t": t, "type": "n", "model": "m", "in": tokens, "out": out, "hash_ids": ids, "stop": "tool_use", **more}


def session(*requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "s", "block_size": 64, "hash_id_scope": "local", "requests": list(requests), **more}


def agent(t: float, *requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"t": t, "type": "subagent", "subagent_type": "Explore", "requests": list(requests), **more}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_request_list(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("num_prefill_tokens,arrived_at,num_decode_tokens,user\r\n10, 0.5,3,x\n\n0,1e0,0,y\n7.0,2,1,z\n")
    programs, rules = imported(path)
    assert [(p.program, p.arrival_s) for p in programs] == [("r0", 0.5), ("r1", 1.0), ("r2", 2.0)]
    calls = [p.nodes[0] for p in programs]
    assert [(c.prompt, c.output_tokens) for c in calls] == [  # type: ignore[union-attr]
        ((Piece("r0", 10),), 3),
        ((Piece("r1", 1),), 1),
        ((Piece("r2", 7),), 1),
    ]
    assert rules == {request_list.NO_PROMPT: 1, request_list.NO_OUTPUT: 1, request_list.EXTRA: 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2", ":2: must have 3 columns, got 2"),
        ("-1,2,3", ":2: arrived_at: must be >= 0, got -1.0"),
        ("nan,2,3", ":2: arrived_at: must be finite, got nan"),
        ("1,x,3", ":2: num_prefill_tokens: must be a number, got 'x'"),
        ("1,2,3.5", ":2: num_decode_tokens: must be an integer, got 3.5"),
        ("1,2,1e10", ":2: num_decode_tokens: must be <= 1e+09, got 10000000000.0"),
        ('1,"2,3', ":2: must be CSV"),
        ("1,2,\xe9", ":2: must be UTF-8"),
    ],
)
def test_request_list_errors(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{row}\n".encode("latin-1"))
    with pytest.raises(BadInput) as caught:
        imported(path)
    assert message in str(caught.value)
    with pytest.raises(BadInput):
        import_any(path, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [path]


def row(timestamp: int, tokens: int, out: int, ids: list[int]) -> dict[str, Any]:
    return {"timestamp": timestamp, "input_length": tokens, "output_length": out, "hash_ids": ids}


def test_mooncake_turns_share_prompt_and_answer(tmp_path: Path) -> None:
    rows = [
        row(0, 1000, 200, [1, 2]),
        row(1500, 2000, 100, [1, 3, 4, 5]),  # continues the first: its full block, then new ones
        row(2000, 1100, 100, [1, 6, 7]),  # goes on differently: shares the full block alone
        row(3000, 0, 0, [9]),
        row(3000, 1010, 5, [1, 8]) | {"extra": 1},  # too short for an answer that nobody took
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    programs, rules = imported(path)
    prompts = [resolve(p)["call"].prompt for p in programs]
    assert prompts[:3] == [
        (("log/0", 1000),),
        (("log/0", 1000), ("log/0o", 200), ("log/1", 800)),
        (("log/0", 512), ("log/2", 588)),
    ]
    assert resolve(programs[0])["call"].output == (("log/0o", 200),)
    assert programs[1].arrival_s == 1.5
    assert rules == {
        hashes.EXTENDS: 1,
        odd.EMPTY_PROMPT: 1,
        odd.NO_OUTPUT: 1,
        mooncake.UNKNOWN: 1,
    }


def test_weka_chain(tmp_path: Path) -> None:
    value = session(
        request(0.0, 130, [1, 2], out=20, api_time=2.0),
        request(5.0, 200, [1, 2, 3], think_time=3.0, api_time=1.0, stop="end_turn"),
        request(20.0, 100, [1], out=0),
        request(21.0, 0, []),
        tool_tokens=7,
    )
    (program,), rules = imported(write(tmp_path / "s.json", value))
    assert program.program == "s"
    assert [node.id for node in program.nodes] == ["c0", "t1", "c1", "t2", "c2"]
    tools = [node for node in program.nodes if isinstance(node, ToolNode)]
    assert [(t.tool, t.duration_s, t.after) for t in tools] == [("tool", 3.0, ("c0",)), ("human", 14.0, ("c1",))]
    calls = [node for node in program.nodes if isinstance(node, LLMNode)]
    assert [call.at_s for call in calls] == [0.0, 5.0, 20.0]
    assert [call.prompt for call in calls] == [
        (Piece("s/0", 130),),
        (PromptOf("c0"), Piece("s/0o", 20), Piece("s/1", 50)),
        (Piece("s/0", 64), Piece("s/2", 36)),
    ]
    assert resolve(program)["c0"].output == (("s/0o", 20),)
    assert program.labels == {"tool_tokens": 7, "models": ["m"]}
    assert rules == {
        hashes.EXTENDS: 1,
        odd.NO_OUTPUT: 1,
        weka_session.EMPTY_REQUEST: 1,
        weka_session.NO_API_TIME: 1,
        weka_program.NO_THINK_TIME: 1,
    }


def test_weka_sub_agents_are_parallel_branches(tmp_path: Path) -> None:
    one = agent(10.0, request(0.0, 70, [50], api_time=1.0), request(4.0, 130, [50, 51], api_time=2.0, think_time=3.0))
    two = agent(11.0, request(0.0, 70, [50], api_time=1.0), duration_ms=9000)
    late = agent(30.0, request(0.0, 70, [60]), duration_ms=90_000)
    value = session(
        request(0.0, 130, [1, 2], api_time=9.0),
        one,
        two,
        agent(12.0),
        request(25.0, 200, [1, 2, 3], api_time=1.0, think_time=16.0),
        late,
        request(40.0, 300, [1, 2, 3, 4], api_time=1.0, think_time=14.0),
    )
    (program,), rules = imported(write(tmp_path / "s.json", value))
    by_id = {node.id: node for node in program.nodes}
    assert by_id["a0.c0"].after == ("c0",)
    assert by_id["a0.c0"].delay_s == 1.0
    assert by_id["a1.c0"].delay_s == 2.0
    assert by_id["a0.c1"].after == ("a0.t1",)
    assert by_id["a0.t1"].duration_s == 3.0  # type: ignore[union-attr]
    joining = by_id["t4"]
    assert joining.after == ("c0", "a0.c1", "a1.c0")
    assert joining.duration_s == 5.0, "from the later sub-agent's end at 20 s to the call at 25 s"  # type: ignore[union-attr]
    assert by_id["c4"].after == ("t4",)
    assert by_id["t6"].after == ("c4",), "the late sub-agent is joined by nothing"
    kinds = {node.agent: node.agent_type for node in program.nodes if isinstance(node, LLMNode)}
    assert kinds == {"main": "main", "a0": "Explore", "a1": "Explore", "a2": "Explore"}
    assert by_id["a0.c0"].at_s == 10.0
    content = resolve(program)
    assert content["a1.c0"].prompt[0] == ("s/1", 64), "sub-agents share their first block"
    assert rules[weka_session.EMPTY_AGENT] == 1
    assert rules[weka_session.NO_DURATION] == 1
    assert rules[weka_program.NO_JOIN] == 1
    assert rules[weka_program.JOIN_THINK] == 1


def test_weka_odd_sessions(tmp_path: Path) -> None:
    first = session(request(3.0, 70, [1, 2, 3], api_time=300.0), request(1.0, 70, [1], think_time=-2.0, api_time=1.0))
    write(tmp_path / "a.json", first)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(first).encode()))
    write(tmp_path / "c.json", session())
    spawnless = session(agent(2.0, request(0.5, 70, [1], api_time=1.0)), request(9.0, 70, [5], api_time=1.0))
    del spawnless["id"]
    write(tmp_path / "d.json", spawnless)
    (tmp_path / "README.md").write_text("not a session")
    programs, rules = imported(tmp_path)
    assert [p.program for p in programs] == ["s", "s#2", "d"]
    assert programs[0].nodes[0].at_s == 1.0
    assert programs[2].node("a0.c0").after == ()
    assert programs[2].node("a0.c0").delay_s == 0.0
    assert programs[2].node("t1").after == ("a0.c0",)
    assert rules == {
        weka.DUPLICATE: 1,
        weka.SAME_ID: 1,
        weka.NO_CALLS: 1,
        weka.NO_ID: 1,
        weka.OTHER: 1,
        weka_session.UNSORTED: 2,
        weka_session.CAPPED: 2,
        odd.IDS_CUT: 2,
        weka_session.NO_DURATION: 1,
        weka_program.NO_SPAWN: 1,
        weka_program.JOIN_THINK: 1,
        weka_program.NO_THINK_TIME: 2,
    }


def test_a_retry_repeats_the_prompt_and_may_answer_differently(tmp_path: Path) -> None:
    value = session(
        request(0.0, 130, [1, 2], api_time=1.0),
        request(2.0, 130, [1, 2], api_time=1.0, think_time=0.0),
    )
    (program,), _ = imported(write(tmp_path / "s.json", value))
    content = resolve(program)
    assert content["c0"].prompt == content["c1"].prompt
    assert content["c0"].output != content["c1"].output
    assert not any(isinstance(part, OutputOf) for part in program.node("c1").prompt)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": -1}, "requests[0].t: must be >= 0, got -1"),
        ({"in": "5"}, "requests[0].in: must be an integer, got '5'"),
        ({"out": -5}, "requests[0].out: must be >= 0, got -5"),
        ({"hash_ids": [1, None]}, "requests[0].hash_ids[1]: must be an integer, got None"),
        ({"api_time": float("inf")}, "requests[0].api_time: must be finite, got inf"),
        ({"stop": 3}, "requests[0].stop: must be a string, got 3"),
    ],
)
def test_weka_errors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "s.json", session(request(0.0, 130, [1, 2]) | change))
    with pytest.raises(BadInput) as caught:
        imported(path)
    assert str(caught.value) == f"{path}: {message}"


def test_detection(tmp_path: Path) -> None:
    assert list(IMPORTERS) == ["tokencake", "request_list", "mooncake", "weka"]
    for name, content in {"a.txt": b"hello", "empty": b"", "x.json": b"{}", "z.gz": b"\x1f\x8b\x08"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput):
            detect_and_import(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="must be something that an importer knows"):
        detect_and_import(tmp_path / "folder")
    with pytest.raises(BadInput, match="no such file"):
        detect_and_import(tmp_path / "none")


def test_import_any_and_what_it_wrote(tmp_path: Path) -> None:
    source = write(tmp_path / "s.json", session(request(0.0, 130, [1, 2], api_time=1.0)))
    report = import_any(source, tmp_path / "out.jsonl.gz")
    assert (report["source"], report["files"], report["programs"], report["calls"]) == ("weka", 1, 1, 1)
    again = import_any(tmp_path / "out.jsonl.gz", tmp_path / "plain.jsonl")
    assert again == {"source": "tokencake", "files": 1, "programs": 1, "calls": 1, "rules": {}}
    assert load_trace(tmp_path / "plain.jsonl") == load_trace(tmp_path / "out.jsonl.gz")
    assert validate_trace(tmp_path / "plain.jsonl") == {"programs": 1, "calls": 1, "tool_calls": 0}
    described = inspect_trace(tmp_path / "plain.jsonl")
    assert described["sha256"] == inspect_trace(tmp_path / "out.jsonl.gz")["sha256"]
    assert described["prompt_tokens"]["max"] == 130
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    with pytest.raises(BadInput, match="is already there"):
        import_any(source, tmp_path / "plain.jsonl")


SAMPLES: list[tuple[str, Any]] = [
    (
        "s.json",
        session(
            request(0.0, 130, [1, 2], api_time=9.0, ttft=1.0),
            agent(10.0, request(0.0, 70, [50], api_time=1.0), request(4.0, 130, [50, 51], think_time=3.0)),
            agent(10.5, request(0.0, 70, [50]), duration_ms=900),
            request(25.0, 200, [1, 2, 3], api_time=1.0, think_time=16.0),
            request(35.0, 90, [1], api_time=1.0, think_time=9.0),
        ),
    ),
    ("log.jsonl", row(0, 1000, 200, [1, 2])),
]


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.sampled_from(SAMPLES))
def test_broken_recordings_are_bad_input_or_valid(broken, rng, times, sample) -> None:
    name, value = sample
    for _ in range(times):
        if isinstance(value, dict) and value:
            value = broken(value, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(json.dumps(value) + "\n")
        try:
            imported(path)
        except BadInput as error:
            assert "\n" not in str(error)


@given(st.binary(max_size=200), st.sampled_from(["arrived_at,num_prefill_tokens,num_decode_tokens\n", "", "{"]))
def test_random_bytes_are_bad_input_or_an_empty_list(data: bytes, head: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(head.encode() + data)
        try:
            imported(path)
        except BadInput as error:
            assert str(error).startswith(str(path))


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(1, 63), st.integers(1, 200)),
        min_size=1,
        max_size=12,
    )
)
def test_streams_share_what_hashes_share(plan: list[tuple[int, int, int, int]]) -> None:
    """Random prompts: each takes a prefix of an earlier one's blocks and adds new ones."""
    from tokencake.traces.importers.report import Report
    from tokencake.traces.prefix import PrefixIndex

    prompts = hashes.HashMap("h", 64, Report("test"))
    seen: list[list[int]] = []
    index = PrefixIndex()
    fresh = 0
    for source, kept, tail, output in plan:
        base = seen[source % len(seen)] if seen else []
        ids = base[: max(0, len(base) - kept // 3)] + list(range(fresh, fresh + kept % 4))
        fresh += 10
        tokens = 64 * len(ids) + tail
        prompt, _ = prompts.add("n", ids, tokens, output, lambda _: False)
        flat = [(piece.content, piece.tokens) for piece in prompt.flat()]
        assert sum(size for _, size in flat) == tokens
        shared = max((_common(ids, other) for other in seen), default=0) * 64
        assert shared <= index.common(flat) < shared + 64
        index.add(flat)
        seen.append(ids)


def _common(one: list[int], two: list[int]) -> int:
    count = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        count += 1
    return count
