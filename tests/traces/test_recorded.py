"""Importers on the recorded traces: reuse in whole blocks is what the hashes say, call by call."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokencake.traces.importers import detect_and_import
from tokencake.traces.prefix import PrefixIndex
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode
from tokencake.traces.validate import validate_program


class HashCache:
    """The tokens of a prompt whose blocks were seen before, by hash id."""

    def __init__(self, block_tokens: int) -> None:
        self._block = block_tokens
        self._seen: set[int] = set()

    def hit(self, ids: list[int], tokens: int) -> int:
        known = next((i for i, id_ in enumerate(ids) if id_ not in self._seen), len(ids))
        self._seen.update(ids)
        return min(known * self._block, tokens)


def weka_requests(path: Path) -> dict[str, dict[str, Any]]:
    requests: dict[str, dict[str, Any]] = {}
    agents = 0
    for i, item in enumerate(json.loads(gzip.decompress(path.read_bytes()))["requests"]):
        if item["type"] == "subagent":
            requests |= {f"a{agents}.c{j}": inner for j, inner in enumerate(item["requests"])}
            agents += 1
        else:
            requests[f"c{i}"] = item
    return requests


def weka_folder(shared: Path) -> Path:
    return shared / "traces" / "weka_cc_traces"


@pytest.mark.slow
def test_weka_reuse(shared: Path) -> None:
    files = sorted(weka_folder(shared).glob("*.json.gz"))
    total = hits = calls = 0
    _, programs, report = detect_and_import(weka_folder(shared))
    for path, program in zip(files, programs, strict=True):
        requests = weka_requests(path)
        content = resolve(program)
        assert content.keys() == requests.keys()
        cache, index = HashCache(64), PrefixIndex()
        for node in program.nodes:
            if not isinstance(node, LLMNode):
                continue
            recorded = requests[node.id]
            assert content[node.id].prompt_tokens == recorded["in"]
            assert node.output_tokens == max(1, recorded["out"])
            assert len(content[node.id].prompt) < 1000
            wanted = cache.hit(recorded["hash_ids"], recorded["in"])
            assert wanted <= index.common(content[node.id].prompt) < wanted + 64
            index.add(content[node.id].prompt)
            total += recorded["in"]
            hits += wanted
            calls += 1
    assert (report.files, report.programs, report.calls) == (len(files), len(files), calls)
    assert hits / total > 0.9


def test_weka_sessions_with_and_without_sub_agents(shared: Path) -> None:
    for path in sorted(weka_folder(shared).glob("*.json.gz"), key=lambda p: p.stat().st_size)[40:60]:
        _, programs, _ = detect_and_import(path)
        (program,) = programs
        assert validate_program(program) == program
        requests = weka_requests(path)
        assert {node.id for node in program.nodes if isinstance(node, LLMNode)} == requests.keys()


def mooncake_rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) as stream:
        yield from map(json.loads, stream)


def test_mooncake_reuse(shared: Path) -> None:
    path = shared / "traces" / "mooncake" / "conversation_trace.jsonl.gz"
    _, programs, report = detect_and_import(path)
    cache, index = HashCache(512), PrefixIndex()
    total = hits = 0
    for row, program in zip(mooncake_rows(path), programs, strict=True):
        content = resolve(program)["call"]
        assert content.prompt_tokens == row["input_length"]
        wanted = cache.hit(row["hash_ids"], row["input_length"])
        assert wanted <= index.common(content.prompt) < wanted + 512
        index.add(content.prompt)
        total += row["input_length"]
        hits += wanted
    assert report.programs == 12_031
    assert hits / total == pytest.approx(0.374, abs=0.001)


def test_request_list(shared: Path) -> None:
    _, programs, report = detect_and_import(shared / "bench" / "conv_n1000_qps4.csv")
    found = list(programs)
    assert len(found) == report.calls == 1000
    assert found[0].arrival_s == 0.601052
    assert report.rules == {}
