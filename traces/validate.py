"""From JSON values to trace objects, checking every rule of the format on the way.

Objects that were built in memory take the same road (:func:`validate_program` writes them out and
reads them back), so that there is one set of rules.
"""

from __future__ import annotations

import math
from typing import Any

from tokencake.traces import fields
from tokencake.traces.encode import program_to_json
from tokencake.traces.errors import BadInput
from tokencake.traces.fields import array, count, flag, known_keys, labels, name, number, required
from tokencake.traces.graph import check_graph
from tokencake.traces.schema import (
    FORMAT,
    VERSION,
    Header,
    LLMNode,
    Node,
    OutputOf,
    Piece,
    Program,
    PromptOf,
    PromptPart,
    ResultOf,
    Stage,
    ToolNode,
)

HEADER_KEYS = frozenset({"format", "version", "name", "labels"})
PROGRAM_KEYS = frozenset({"program", "app", "arrival_s", "nodes", "labels"})
_COMMON = {"id", "kind", "after", "delay_s", "at_s", "importance", "critical", "labels"}
LLM_KEYS = frozenset(_COMMON | {"agent", "agent_type", "prompt", "output_tokens", "max_tokens", "output", "output_id"})
TOOL_KEYS = frozenset(_COMMON | {"tool", "duration_s", "estimate_s", "result_tokens", "result_id", "stages"})
STAGE_KEYS = frozenset({"name", "duration_s", "estimate_s"})
_REFERENCES: dict[str, type[PromptOf] | type[OutputOf] | type[ResultOf]] = {
    "prompt_of": PromptOf,
    "output_of": OutputOf,
    "result_of": ResultOf,
}


def header_from_json(value: object) -> Header:
    """Return the header that a JSON value describes.

    Raises:
        BadInput: for a value that is no header of this format and version.
    """
    obj = fields.an_object(value)
    if obj.get("format") != FORMAT:
        raise BadInput(
            f"the first line must be a header with format {FORMAT!r}", field="format", value=obj.get("format")
        )
    version = required(obj, "version")
    if type(version) is not int or version != VERSION:
        raise BadInput(f"must be {VERSION}, the only version there is", field="version", value=version)
    known_keys(obj, HEADER_KEYS)
    return Header(name(required(obj, "name"), "name"), version, labels(obj))


def program_from_json(value: object) -> Program:
    """Return the program that a JSON value describes.

    Raises:
        BadInput: naming the field, the value and the rule that it breaks.
    """
    obj = fields.an_object(value)
    known_keys(obj, PROGRAM_KEYS)
    program = name(required(obj, "program"), "program")
    app = name(required(obj, "app"), "app")
    arrival_s = number(required(obj, "arrival_s"), "arrival_s")
    listed = array(required(obj, "nodes"), "nodes")
    if not listed:
        raise BadInput("must have at least 1 node", field="nodes")
    nodes = []
    for i, item in enumerate(listed):
        try:
            nodes.append(_node(item, app))
        except BadInput as error:
            raise error.inside(f"nodes[{i}]") from None
    check_graph(nodes)
    return Program(program, app, arrival_s, tuple(nodes), labels(obj))


def validate_program(program: Program) -> Program:
    """Check a program that was built in memory and return it in normal form (floats are floats).

    Raises:
        BadInput: as :func:`program_from_json`; its field path is that of the file format.
    """
    return program_from_json(program_to_json(program))


def _node(value: object, app: str) -> Node:
    obj = fields.an_object(value)
    kind = required(obj, "kind")
    if kind == "llm":
        return _llm(obj, app)
    if kind == "tool":
        return _tool(obj)
    raise BadInput("must be 'llm' or 'tool'", field="kind", value=kind)


def _llm(obj: dict[str, Any], app: str) -> LLMNode:
    known_keys(obj, LLM_KEYS)
    agent = _optional_name(obj, "agent")
    agent_type = _optional_name(obj, "agent_type")
    output_tokens = count(required(obj, "output_tokens"), "output_tokens", 1)
    max_tokens = obj.get("max_tokens")
    if max_tokens is not None and count(max_tokens, "max_tokens", 1) < output_tokens:
        raise BadInput(f"must be >= output_tokens ({output_tokens})", field="max_tokens", value=max_tokens)
    return LLMNode(
        name(required(obj, "id"), "id"),
        _after(obj),
        agent or agent_type or app,
        agent_type or agent or app,
        _prompt(required(obj, "prompt")),
        output_tokens,
        max_tokens,
        _output(obj.get("output"), output_tokens),
        _optional_name(obj, "output_id"),
        *_timing(obj),
        number(obj.get("importance", 0.0), "importance", -1e9, 1e9),
        flag(obj.get("critical", False), "critical"),
        labels(obj),
    )


def _tool(obj: dict[str, Any]) -> ToolNode:
    known_keys(obj, TOOL_KEYS)
    duration_s = number(required(obj, "duration_s"), "duration_s")
    return ToolNode(
        name(required(obj, "id"), "id"),
        _after(obj),
        name(required(obj, "tool"), "tool"),
        duration_s,
        _optional_number(obj, "estimate_s"),
        count(obj.get("result_tokens", 0), "result_tokens"),
        _optional_name(obj, "result_id"),
        *_timing(obj),
        _stages(obj.get("stages"), duration_s),
        number(obj.get("importance", 0.0), "importance", -1e9, 1e9),
        flag(obj.get("critical", False), "critical"),
        labels(obj),
    )


def _after(obj: dict[str, Any]) -> tuple[str, ...]:
    listed = array(obj.get("after", []), "after")
    return tuple([name(item, f"after[{i}]") for i, item in enumerate(listed)])


def _timing(obj: dict[str, Any]) -> tuple[float, float | None]:
    return number(obj.get("delay_s", 0.0), "delay_s"), _optional_number(obj, "at_s")


def _prompt(value: object) -> tuple[PromptPart, ...]:
    parts: list[PromptPart] = []
    for i, item in enumerate(array(value, "prompt")):
        if type(item) is dict:
            parts.append(_reference(item, f"prompt[{i}]"))
        else:
            parts.append(_piece(item, f"prompt[{i}]"))
    return tuple(parts)


def _reference(item: dict[str, Any], field: str) -> PromptPart:
    if len(item) == 1:
        (key, target), *_ = item.items()
        if key in _REFERENCES:
            return _REFERENCES[key](name(target, f"{field}.{key}"))
    raise BadInput("must have exactly one key: prompt_of, output_of or result_of", field=field, value=item)


def _piece(item: object, field: str) -> Piece:
    if type(item) is not list or len(item) != 2:
        raise BadInput("must be [content id, tokens] or a reference", field=field, value=item)
    return Piece(name(item[0], field + "[0]"), count(item[1], field + "[1]"))


def _output(value: object, output_tokens: int) -> tuple[Piece, ...] | None:
    if value is None:
        return None
    pieces = tuple([_piece(item, f"output[{i}]") for i, item in enumerate(array(value, "output"))])
    total = sum([piece.tokens for piece in pieces])
    if total != output_tokens:
        raise BadInput(f"must add up to output_tokens ({output_tokens})", field="output", value=total)
    return pieces


def _stages(value: object, duration_s: float) -> tuple[Stage, ...]:
    if value is None:
        return ()
    stages = []
    for i, item in enumerate(array(value, "stages")):
        try:
            obj = fields.an_object(item)
            known_keys(obj, STAGE_KEYS)
            stage_s = number(required(obj, "duration_s"), "duration_s")
            stages.append(Stage(name(required(obj, "name"), "name"), stage_s, _optional_number(obj, "estimate_s")))
        except BadInput as error:
            raise error.inside(f"stages[{i}]") from None
    total = math.fsum(stage.duration_s for stage in stages)
    if stages and not math.isclose(total, duration_s, rel_tol=1e-9, abs_tol=1e-9):
        raise BadInput(f"must add up to duration_s ({duration_s:g})", field="stages", value=total)
    return tuple(stages)


def _optional_name(obj: dict[str, Any], key: str) -> str | None:
    value = obj.get(key)
    return None if value is None else name(value, key)


def _optional_number(obj: dict[str, Any], key: str) -> float | None:
    value = obj.get(key)
    return None if value is None else number(value, key)
