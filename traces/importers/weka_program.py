"""From the calls of a WEKA-format session to a program: who waits for whom, and what prompts hold.

See :mod:`tokencake.traces.importers.weka` for the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokencake.traces.importers.hashes import HashMap, Prompt
from tokencake.traces.importers.report import Report
from tokencake.traces.importers.weka_session import Branch, Call, Session
from tokencake.traces.schema import LLMNode, Node, Program, ToolNode

APP = "claude-code"
NO_THINK_TIME = "call without think_time: gap between the calls used"
NEGATIVE_THINK = "negative think time: 0 used"
JOIN_THINK = "think time of a call that joins sub-agents: gap from the latest end used"
NO_SPAWN = "sub-agent before the first call: starts with the program"
NO_JOIN = "sub-agent outlives the last call: joined by nothing"
_SLACK_S = 1.0  # many files round t to a second


@dataclass(slots=True, eq=False)
class _Step:
    """A call with its place in the graph."""

    call: Call
    after: tuple[str, ...] = ()
    delay_s: float = 0.0
    before: list[Call] = field(default_factory=list)  # calls that it comes after, without tools


def session_program(name: str, session: Session, report: Report) -> Program:
    """Return the program of a session that has at least one call."""
    tools: list[ToolNode] = []
    steps = _chain(session, tools, report)
    labels = dict(session.labels)
    models = list(dict.fromkeys(step.call.model for step in steps if step.call.model))
    if models:
        labels["models"] = models
    calls = _calls(name, session, steps, report)
    order: dict[str, list[Node]] = {}
    for tool in tools:
        order.setdefault(tool.after[0], []).append(tool)
    nodes: list[Node] = []
    for call in calls:
        nodes += [call, *order.get(call.id, [])]
    return Program(name, APP, 0.0, tuple(nodes), labels)


def _chain(session: Session, tools: list[ToolNode], report: Report) -> list[_Step]:
    """Return all calls in an order of time that respects the graph; append the tools between them."""
    start_s = min(call.at_s for call in session.calls)
    joined: dict[int, list[Branch]] = {}
    for branch in session.branches:
        joined.setdefault(_join(session, branch, report), []).append(branch)
    steps: list[_Step] = []
    for branch in session.branches:
        steps += _branch_steps(session, branch, start_s, tools, report)
    for i, call in enumerate(session.main):
        step = _Step(call)
        ends = joined.get(i, [])
        if i > 0:
            step.before = [session.main[i - 1]]
        step.before += [branch.calls[-1] for branch in ends]
        if step.before:
            tools.append(_think(f"t{call.id[1:]}", step, [branch.end_s for branch in ends], report))
            step.after = (tools[-1].id,)
        steps.append(step)
    # Sub-agents first among equals: a call may join what ended in the same second.
    steps.sort(key=lambda step: (step.call.at_s, step.call.agent == "main" and bool(step.before[1:])))
    return _topological(steps)


def _topological(steps: list[_Step]) -> list[_Step]:
    """Return the steps in their order, each moved behind what it comes after where needed."""
    placed: set[str] = set()
    order: list[_Step] = []
    waiting = steps
    while waiting:
        late = []
        for step in waiting:
            if all(call.id in placed for call in step.before):
                placed.add(step.call.id)
                order.append(step)
            else:
                late.append(step)
        waiting = late
    return order


def _join(session: Session, branch: Branch, report: Report) -> int:
    """Return the index of the call that waits for a sub-agent, or -1."""
    for i in range(branch.after, len(session.main)):
        if session.main[i].at_s >= max(branch.end_s - _SLACK_S, branch.calls[-1].at_s):
            return i
    report.count(NO_JOIN)
    return -1


def _branch_steps(
    session: Session, branch: Branch, start_s: float, tools: list[ToolNode], report: Report
) -> list[_Step]:
    first = branch.calls[0]
    if branch.after:
        spawn = session.main[branch.after - 1]
        steps = [_Step(first, (spawn.id,), max(0.0, _round(first.at_s - spawn.end_s)), [spawn])]
    else:
        report.count(NO_SPAWN)
        steps = [_Step(first, (), _round(first.at_s - start_s))]
    for earlier, call in zip(branch.calls, branch.calls[1:], strict=False):
        step = _Step(call, before=[earlier])
        tools.append(_think(call.id.replace(".c", ".t"), step, [], report))
        step.after = (tools[-1].id,)
        steps.append(step)
    return steps


def _think(tool_id: str, step: _Step, joined_ends: list[float], report: Report) -> ToolNode:
    """Return the tool node between a call and those it comes after."""
    call, earlier = step.call, step.before[0]
    if joined_ends:
        report.count(JOIN_THINK)
        think_s = max(0.0, call.at_s - max(earlier.end_s, *joined_ends))
    elif call.think_s is None:
        report.count(NO_THINK_TIME)
        think_s = max(0.0, call.at_s - earlier.end_s)
    else:
        report.count(NEGATIVE_THINK, call.think_s < 0)
        think_s = max(0.0, call.think_s)
    tool = "tool" if earlier.stop == "tool_use" else "human"
    return ToolNode(tool_id, tuple(before.id for before in step.before), tool, _round(think_s))


def _calls(name: str, session: Session, steps: list[_Step], report: Report) -> list[LLMNode]:
    """Return the LLM nodes, their prompts mapped in the order of time."""
    prompts = HashMap(name, session.block_tokens, report, graph=True)
    bits: dict[str, int] = {}
    ancestors: dict[str, int] = {}
    nodes = []
    for step in steps:
        call = step.call
        above = 0
        for before in step.before:
            above |= ancestors[before.id] | bits[before.id]
        bits[call.id] = 1 << len(bits)
        ancestors[call.id] = above

        def usable(prompt: Prompt, above: int = above) -> bool:
            return bool(above & bits[prompt.node])

        prompt, parts = prompts.add(call.id, call.ids, call.prompt_tokens, call.output_tokens, usable)
        nodes.append(
            LLMNode(
                id=call.id,
                after=step.after,
                agent=call.agent,
                agent_type=call.agent_type,
                prompt=parts,
                output_tokens=call.output_tokens,
                output=(prompt.answer,),
                delay_s=step.delay_s,
                at_s=_round(call.at_s),
                labels={"model": call.model} if call.model else {},
            )
        )
    return nodes


def _round(seconds: float) -> float:
    return round(seconds, 6)
