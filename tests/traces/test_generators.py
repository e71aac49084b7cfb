"""The generators: check values of the Code-Writer, and bundled traces that can be made again."""

import dataclasses
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tokencake.traces.generators import GENERATORS
from tokencake.traces.generators.code_writer import PROFILES, CodeWriter
from tokencake.traces.generators.deep_research import DeepResearch
from tokencake.traces.generators.synthetic import Demo
from tokencake.traces.inspection import describe
from tokencake.traces.io import programs_sha256, trace_sha256
from tokencake.traces.prefix import PrefixIndex
from tokencake.traces.resolve import Resolved, resolve
from tokencake.traces.schema import LLMNode, Program, ToolNode
from tokencake.traces.validate import validate_program

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def exact(profile: str = "conversation-tools", **params: object) -> tuple[Program, dict[str, Resolved]]:
    program = next(iter(CodeWriter(profile=profile, jitter=0, **params).programs()))  # type: ignore[arg-type]
    return program, resolve(program)


def calls(program: Program) -> list[LLMNode]:
    return [node for node in program.nodes if isinstance(node, LLMNode)]


@pytest.mark.parametrize(
    ("profile", "output_tokens", "mean_prompt"),
    [
        ("conversation-tools", 6464, 9065.7),
        ("conversation", 11300, 11104.8),
        ("continuation", 11300, 8314.8),
        ("frozen", 11300, 8325.2),
    ],
)
def test_code_writer_totals(profile: str, output_tokens: int, mean_prompt: float) -> None:
    program, content = exact(profile)
    assert len(content) == 27
    assert len(program.nodes) == 27 + 18
    assert sum(call.output_tokens for call in calls(program)) == output_tokens
    assert sum(call.max_tokens or 0 for call in calls(program)) == output_tokens
    assert sum(c.prompt_tokens for c in content.values()) / 27 == pytest.approx(mean_prompt, abs=0.05)
    assert validate_program(program) == program


def test_code_writer_matches_the_published_structure(shared: Path) -> None:
    nodes = json.loads((shared / "reference" / "workload_conversation_tools.json").read_text())["nodes"]
    program, content = exact()
    facts = {node["name"]: node for node in nodes if node["kind"] == "llm"}
    assert [call.id for call in calls(program)] == list(facts)
    for call in calls(program):
        fact = facts[call.id]
        # The published estimate takes the reviewers' outputs as different; they are equal.
        twice = 200 if "revise" in call.id else 0
        assert content[call.id].prompt_tokens == fact["prompt_tokens_estimate"] - twice
        assert (call.agent_type, call.output_tokens) == (fact["type"], fact["max_tokens"])
        assert call.importance == fact["metadata"]["importance_sent_to_server"]
        assert call.critical == fact["metadata"]["critical_path"]
        both = call.labels.keys() & fact["metadata"].keys()
        assert len(both) == 15
        assert {key: call.labels[key] for key in both} == {key: fact["metadata"][key] for key in both}
        tools = [node for node in program.nodes if isinstance(node, ToolNode) and node.after == (call.id,)]
        assert len(tools) == (fact["tool"] is not None)
        for tool in tools:
            assert (tool.tool, tool.duration_s, tool.result_tokens) == (
                fact["tool"]["kind"], fact["tool"]["duration_s"], fact["tool"]["result_tokens"],
            )  # fmt: skip
            assert tool.estimate_s == tool.duration_s


def test_code_writer_shares_what_the_authors_share() -> None:
    first, second = (resolve(p) for p in CodeWriter(programs_count=2).programs())
    for name, content in first.items():
        index = PrefixIndex()
        index.add(content.prompt)
        assert index.common(second[name].prompt) == 95, "programs share the header alone"
    assert first["reviewer_1"] == first["reviewer_2"]
    for group in (["programmer_1", "programmer_2", "programmer_3"], ["reviser_1", "reviser_2"]):
        twins = [first[f"{name}_validate_patch"] for name in group]
        assert len({twin.prompt for twin in twins}) == 1
        assert len({twin.output for twin in twins}) == len(twins)
    spine = ["architect_1", "search_1", "judger_1", "architect_2", "search_2", "judger_2", "file_write_plan"]
    for before, after in pairwise(spine):
        whole = first[before].prompt + first[before].output
        assert first[after].prompt[: len(whole)] == whole


def test_code_writer_profiles_share_as_described() -> None:
    def repair_continues(profile: str) -> bool:
        content = exact(profile)[1]
        whole = content["reviser_2_validate_patch"].prompt + content["reviser_2_validate_patch"].output
        return content["reviser_2_repair"].prompt[: len(whole)] == whole

    assert [repair_continues(profile) for profile in PROFILES] == [True, True, True, False]
    frozen, _ = exact("frozen")
    eligible = [call.id for call in calls(frozen) if call.labels["offload_eligible"]]
    assert eligible == ["programmer_2_validate_patch", "programmer_3_validate_patch", "reviser_2_validate_patch"]
    tools, _ = exact()
    assert sum(call.labels["offload_eligible"] for call in calls(tools)) == 15
    assert exact("frozen", frozen_reviewers="prepend")[1]["reviewer_1"].prompt_tokens == 23746


def test_code_writer_lengths_vary_by_seed_and_arrivals_do_not_touch_them() -> None:
    def lengths(**params: object) -> list[list[int]]:
        generator = CodeWriter(**params)  # type: ignore[arg-type]
        return [[c.prompt_tokens for c in resolve(p).values()] for p in generator.programs()]

    assert lengths(seed=1) == lengths(seed=1, qps=0.1, arrivals="poisson") != lengths(seed=2)
    assert {row[0] - 17 for row in lengths(seed=3)} <= {4604, 4605, 4606, 4607, 4608}
    results = [
        node.result_tokens
        for program in CodeWriter(programs_count=200).programs()
        for node in program.nodes
        if isinstance(node, ToolNode) and node.tool == "search"
    ]
    assert 389 <= min(results) <= max(results) <= 402
    assert sum(results) / len(results) == pytest.approx(394, abs=0.5)
    assert [p.arrival_s for p in CodeWriter(qps=0.2).programs()][-1] == 115.0


def test_demo_has_what_policies_need() -> None:
    programs = list(Demo(programs_count=30).programs())
    assert all(validate_program(program) == program for program in programs)
    nodes = [node for program in programs for node in program.nodes]
    assert Counter(type(node).__name__ for node in nodes)["ToolNode"] > 50
    assert any(len(node.after) > 1 for node in nodes), "some node joins branches"
    followers = Counter(before for program in programs for node in program.nodes for before in node.after)
    assert max(followers.values()) > 1
    undeclared = [node for program in Demo(declared=False).programs() for node in program.nodes]
    assert all(node.max_tokens is None if isinstance(node, LLMNode) else node.estimate_s is None for node in undeclared)
    sharing = describe(Demo().header(), programs)["sharing"]
    assert 0.1 < sharing["seen_in_other_programs"] < sharing["seen_before"] < 1


def test_deep_research_depends_on_order() -> None:
    """Waves wait for each other, researchers continue their own context, and tools average what is declared."""
    programs = list(DeepResearch(programs_count=40, waves=2, researchers=3, searches=3).programs())
    assert all(validate_program(program) == program for program in programs)
    calls_of = [node for node in programs[0].nodes if isinstance(node, LLMNode)]
    assert len(calls_of) == 1 + 2 * 3 * (3 + 1) + 1 + 1
    joins = {node.id: len(node.after) for node in calls_of if len(node.after) > 1}
    assert joins == {"w0.critique": 3, "report": 3}
    tools = [node for program in programs for node in program.nodes if isinstance(node, ToolNode)]
    assert {tool.estimate_s for tool in tools} == {4.0}
    durations = [tool.duration_s for tool in tools]
    mean = sum(durations) / len(durations)
    assert mean == pytest.approx(4.0, rel=0.05)
    assert sum((d - mean) ** 2 for d in durations) / len(durations) == pytest.approx(4.0, rel=0.15)  # Poisson
    resolved = resolve(programs[0])
    assert resolved["w0r0.query1"].prompt_tokens > resolved["w0r0.query0"].prompt_tokens + 600


@pytest.mark.parametrize("name", GENERATORS)
def test_equal_parameters_give_equal_traces(name: str) -> None:
    def digest(**params: int) -> str:
        generator = GENERATORS[name](programs_count=3, **params)  # type: ignore[arg-type]
        return programs_sha256(generator.header(), generator.programs())

    assert digest(seed=1) == digest(seed=1) != digest(seed=2)
    assert dataclasses.is_dataclass(GENERATORS[name])


@pytest.mark.parametrize(
    ("file", "generator"),
    [
        ("demo.jsonl.gz", Demo(programs_count=40)),
        ("code_writer.jsonl.gz", CodeWriter(programs_count=8, qps=0.2)),
    ],
)
def test_bundled_traces_can_be_made_again(file: str, generator: Demo | CodeWriter) -> None:
    assert trace_sha256(EXAMPLES / file) == programs_sha256(generator.header(), generator.programs())


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("code_writer", {"profile": "frosen"}, r"profile must be one of .*, got 'frosen' \(did you mean 'frozen'\?\)"),
        ("code_writer", {"qps": 0}, "qps must be > 0 for uniform arrivals, got 0"),
        ("code_writer", {"programs_count": 0}, "programs_count must be >= 1 and <= 10000000, got 0"),
        ("code_writer", {"arrivals": "weekly"}, "arrivals must be one of"),
        ("deep_research", {"waves": 0}, "waves must be >= 1"),
        ("deep_research", {"tool_unit_s": 1e-3}, "tool_unit_s must be >= tool_mean_s / 500"),
        ("demo", {"fanout": 0}, "fanout must be >= 1"),
        ("demo", {"output_tokens": 1.5}, "output_tokens must be an integer, got 1.5"),
        ("demo", {"tool_sigma": -1}, "tool_sigma must be >= 0 and <= 10, got -1"),
        ("demo", {"tool_sigma": float("nan")}, "tool_sigma must be >= 0"),
    ],
)
def test_a_bad_parameter_is_named(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GENERATORS[name](**params)  # type: ignore[arg-type]
