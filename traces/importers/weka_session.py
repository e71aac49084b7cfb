"""The calls of a WEKA-format session file, checked, in the order of time.

See :mod:`tokencake.traces.importers.weka` for the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tokencake.traces.errors import BadInput
from tokencake.traces.fields import MAX_SECONDS, an_object, array, count, number, required
from tokencake.traces.fields import name as name_of
from tokencake.traces.importers.odd import IDS_CUT, NO_OUTPUT, hash_ids
from tokencake.traces.importers.report import Report

EMPTY_REQUEST = "request without prompt tokens: dropped"
NO_API_TIME = "call without api_time: taken to end when it starts"
CAPPED = "call with api_time at the recorder's cap of 300 s: kept"
UNSORTED = "requests out of order: sorted by time"
EMPTY_AGENT = "sub-agent without requests: dropped"
NO_DURATION = "sub-agent without duration_ms: end of its last request used"
_CAP_S = 300.0


@dataclass(slots=True, eq=False)
class Call:
    """One recorded request; times in seconds from the session's start."""

    id: str
    at_s: float
    end_s: float
    think_s: float | None
    stop: str
    prompt_tokens: int
    output_tokens: int
    ids: list[int]
    model: str
    agent: str
    agent_type: str


@dataclass(slots=True, eq=False)
class Branch:
    """A sub-agent: its calls, when it ends, and after how many calls of the session it started."""

    calls: list[Call]
    start_s: float
    end_s: float
    after: int


@dataclass(slots=True, eq=False)
class Session:
    """A session: the calls of the main agent, its sub-agents, and what the file says about it."""

    block_tokens: int
    main: list[Call] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> list[Call]:
        """All calls: the main agent's, then each sub-agent's."""
        return self.main + [call for branch in self.branches for call in branch.calls]


def read_session(obj: dict[str, Any], report: Report) -> Session:
    """Return the calls of a session's JSON object.

    Raises:
        BadInput: naming the field that breaks a rule.
    """
    session = Session(count(required(obj, "block_size"), "block_size", 1))
    for key in ("tool_tokens", "system_tokens"):
        if type(obj.get(key)) is int:
            session.labels[key] = obj[key]
    entries = [(_time(item, i), i, item) for i, item in enumerate(array(required(obj, "requests"), "requests"))]
    report.count(UNSORTED, any(a[0] > b[0] for a, b in pairwise(entries)))
    entries.sort(key=lambda entry: entry[:2])
    for at_s, i, item in entries:
        try:
            if item.get("type") == "subagent":
                branch = _branch(item, at_s, len(session.branches), session, report)
                if branch is not None:
                    session.branches.append(branch)
            else:
                call = _call(item, f"c{i}", at_s, ("main", "main"), session.block_tokens, report)
                if call is not None:
                    session.main.append(call)
        except BadInput as error:
            raise error.inside(f"requests[{i}]") from None
    return session


def _time(item: object, index: int) -> float:
    where = f"requests[{index}]"
    obj = an_object(item, where)
    try:
        return number(required(obj, "t"), "t")
    except BadInput as error:
        raise error.inside(where) from None


def _branch(item: dict[str, Any], at_s: float, index: int, session: Session, report: Report) -> Branch | None:
    name = f"a{index}"
    kind = _text(item, "subagent_type") or "subagent"
    calls = []
    for i, request in enumerate(array(required(item, "requests"), "requests")):
        try:
            start_s = at_s + number(required(an_object(request), "t"), "t")
            call = _call(request, f"{name}.c{i}", start_s, (name, kind), session.block_tokens, report)
        except BadInput as error:
            raise error.inside(f"requests[{i}]") from None
        if call is not None:
            calls.append(call)
    if not calls:
        report.count(EMPTY_AGENT)
        return None
    report.count(UNSORTED, any(a.at_s > b.at_s for a, b in pairwise(calls)))
    calls.sort(key=lambda call: call.at_s)
    end_s = max(call.end_s for call in calls)
    if item.get("duration_ms") is None:
        report.count(NO_DURATION)
    else:
        end_s = max(calls[-1].at_s, at_s + number(item["duration_ms"], "duration_ms", most=1e12) / 1000.0)
    return Branch(calls, at_s, end_s, len(session.main))


def _call(
    obj: dict[str, Any], call_id: str, at_s: float, who: tuple[str, str], block_tokens: int, report: Report
) -> Call | None:
    prompt_tokens = count(required(obj, "in"), "in")
    output_tokens = count(required(obj, "out"), "out")
    ids = hash_ids(required(obj, "hash_ids"), "hash_ids")
    if at_s > MAX_SECONDS:
        raise BadInput(f"must be <= {MAX_SECONDS:g}", field="t", value=at_s)
    api_s = _optional(obj, "api_time", number)
    think_s = _optional(obj, "think_time", lambda value, name: number(value, name, -MAX_SECONDS))
    if prompt_tokens == 0:
        report.count(EMPTY_REQUEST)
        return None
    report.count(NO_OUTPUT, output_tokens == 0)
    report.count(NO_API_TIME, api_s is None)
    report.count(CAPPED, api_s is not None and api_s >= _CAP_S)
    most = -(-prompt_tokens // block_tokens)
    report.count(IDS_CUT, len(ids) > most)
    return Call(
        id=call_id,
        at_s=at_s,
        end_s=at_s + (api_s or 0.0),
        think_s=think_s,
        stop=_text(obj, "stop"),
        prompt_tokens=prompt_tokens,
        output_tokens=max(1, output_tokens),
        ids=ids[:most],
        model=_text(obj, "model"),
        agent=who[0],
        agent_type=who[1],
    )


def _optional(obj: dict[str, Any], key: str, check: Callable[[object, str], float]) -> float | None:
    value = obj.get(key)
    return None if value is None else check(value, key)


def _text(obj: dict[str, Any], key: str) -> str:
    """Return an optional string; "" when it is missing, null or empty."""
    value = obj.get(key)
    return "" if value is None or value == "" else name_of(value, key)
