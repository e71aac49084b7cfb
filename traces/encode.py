"""From trace objects to JSON values: the canonical form, with defaults left out."""

from __future__ import annotations

import json
from typing import Any

from tokencake.traces.schema import (
    FORMAT,
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


def header_to_json(header: Header) -> dict[str, Any]:
    """Return the JSON object of a header line."""
    out: dict[str, Any] = {"format": FORMAT, "version": header.version, "name": header.name}
    if header.labels:
        out["labels"] = dict(header.labels)
    return out


def program_to_json(program: Program) -> dict[str, Any]:
    """Return the JSON object of a program line."""
    out: dict[str, Any] = {
        "program": program.program,
        "app": program.app,
        "arrival_s": program.arrival_s,
        "nodes": [node_to_json(node, program.app) for node in program.nodes],
    }
    if program.labels:
        out["labels"] = dict(program.labels)
    return out


def node_to_json(node: Node, app: str) -> dict[str, Any]:
    """Return the JSON object of a node of a program of application ``app``."""
    out = _llm(node, app) if isinstance(node, LLMNode) else _tool(node)
    if node.delay_s != 0:
        out["delay_s"] = node.delay_s
    if node.at_s is not None:
        out["at_s"] = node.at_s
    if node.importance != 0:
        out["importance"] = node.importance
    if node.critical:
        out["critical"] = node.critical
    if node.labels:
        out["labels"] = dict(node.labels)
    return out


def dumps(value: dict[str, Any]) -> bytes:
    """Return one line of a trace file, newline included.

    Raises:
        ValueError, TypeError: for what JSON cannot hold (labels with odd values).
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _llm(node: LLMNode, app: str) -> dict[str, Any]:
    out: dict[str, Any] = {"id": node.id, "kind": "llm", "after": list(node.after)}
    if not (node.agent == node.agent_type == app):
        out["agent"] = node.agent
        if node.agent_type != node.agent:
            out["agent_type"] = node.agent_type
    out["prompt"] = [_part(part) for part in node.prompt]
    out["output_tokens"] = node.output_tokens
    if node.max_tokens is not None:
        out["max_tokens"] = node.max_tokens
    if node.output is not None:
        out["output"] = [_part(piece) for piece in node.output]
    if node.output_id is not None:
        out["output_id"] = node.output_id
    return out


def _tool(node: ToolNode) -> dict[str, Any]:
    out: dict[str, Any] = {"id": node.id, "kind": "tool", "after": list(node.after), "tool": node.tool}
    out["duration_s"] = node.duration_s
    if node.estimate_s is not None:
        out["estimate_s"] = node.estimate_s
    if node.result_tokens != 0:
        out["result_tokens"] = node.result_tokens
    if node.result_id is not None:
        out["result_id"] = node.result_id
    if node.stages:
        out["stages"] = [_stage(stage) for stage in node.stages]
    return out


def _part(part: PromptPart) -> Any:
    match part:
        case Piece(content, tokens):
            return [content, tokens]
        case PromptOf(node):
            return {"prompt_of": node}
        case OutputOf(node):
            return {"output_of": node}
        case ResultOf(node):
            return {"result_of": node}


def _stage(stage: Stage) -> dict[str, Any]:
    out: dict[str, Any] = {"name": stage.name, "duration_s": stage.duration_s}
    if stage.estimate_s is not None:
        out["estimate_s"] = stage.estimate_s
    return out
