"""The examples of docs/traces.md do what they say."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tokencake.traces.generators import GENERATORS
from tokencake.traces.io import load_trace

DOCS = Path(__file__).resolve().parents[2] / "docs" / "traces.md"


def block(start: str) -> str:
    found = [text for text in re.findall(r"```(?:python)?\n(.*?)```", DOCS.read_text(), re.DOTALL) if start in text]
    assert len(found) == 1
    return str(found[0])


def test_the_format_example_is_a_trace(tmp_path: Path) -> None:
    header, program = block('"format": "tokencake-trace"').split("\n", 1)
    path = tmp_path / "t.jsonl"
    path.write_text(header + "\n" + program.replace("\n", " ") + "\n")
    _, (found,) = load_trace(path)
    assert [node.id for node in found.nodes] == ["plan", "search", "code"]


def test_the_builder_example_makes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block("AppBuilder"), {})
    header, (_, program, _) = load_trace("mine.jsonl.gz")
    assert (header.name, program.program, program.arrival_s) == ("mine", "p1", 0.25)
    assert program.node("search").after == ("architect_1",)


def parameters(text: str) -> list[list[str]]:
    """The table of parameters in a section: cells of its heading and of its rows."""
    table = "| parameter |" + text.split("| parameter |")[1].split("\n\n")[0]
    lines = [line for line in table.splitlines() if not line.startswith("| ---")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("name", GENERATORS)
def test_every_parameter_of_a_generator_is_documented_with_its_default(name: str) -> None:
    common, *sections = DOCS.read_text().split("\n## Generators\n")[1].split("\n## ")[0].split("\n### ")
    (own,) = (section for section in sections if section.startswith(f"`{name}`\n"))
    (_, *names, _), *rows = parameters(common)
    shown = {row[0]: row[1 + names.index(name)] for row in rows}
    shown |= {row[0]: row[1] for row in parameters(own)[1:]}
    defaults = {field.name: field.default for field in fields(GENERATORS[name])}
    assert {key: yaml.safe_load(value) for key, value in shown.items()} == defaults


@pytest.mark.parametrize("table", ["request_list", "mooncake", "weka"])
def test_every_importer_rule_is_documented(table: str) -> None:
    from tokencake.traces.importers import hashes, mooncake, odd, request_list, weka, weka_program, weka_session

    modules = {
        "request_list": [request_list],
        "mooncake": [mooncake, odd, hashes],
        "weka": [weka, weka_session, weka_program, odd, hashes],
    }
    rules = {
        value
        for module in modules[table]
        for name, value in vars(module).items()
        if name.isupper() and name != "FORM" and isinstance(value, str) and " " in value
    }
    text = DOCS.read_text().replace("request (call)", "call").replace("call (request)", "call")
    for rule in rules:
        assert rule.replace("request without", "call without", 1) in text or rule in text
