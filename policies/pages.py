"""One Markdown page a policy, made from what its class says; ``tokencake policies --pages FOLDER``.

A class docstring is the page: its first line, its text, the sections under it (``Assumed:``, ``Not
expressed:``, ``Cost:``), and its parameters. What it decides is what its class overrides, each with the
first line of that method's docstring.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

from tokencake.policies import registry
from tokencake.policies.answers import HOOKS
from tokencake.policies.api import Info, Policy, overrides
from tokencake.policies.params import Param

NOTE = "<!-- Made by `tokencake policies --pages docs/policies` from the class's docstring; edit that. -->"
_SKIPPED = ("Args", "Attributes", "Raises")


def pages() -> dict[str, str]:
    """File name to text, for every registered policy, ``compose``, and an index."""
    made = {f"{name}.md": page(name) for name in (*registry.names(), registry.COMPOSE)}
    lines = ["# Policies", "", NOTE, "", _INDEX]
    rest = [name for name in registry.names() if name not in (*ENGINES, *BOUNDS, *TOOLS)]
    for title, names in (("The engine", ENGINES), ("Published systems", rest), ("Bounds", BOUNDS), ("Tools", TOOLS)):
        lines += ["", f"## {title}", "", "| policy | what it does |", "| --- | --- |"]
        lines += [f"| [{name}]({name}.md) | {_markdown(registry.describe(name).summary)} |" for name in names]
    return {"index.md": "\n".join(lines) + "\n"} | made


ENGINES = ("vllm", "vllm-priority", "vllm-offload")
BOUNDS = ("srpf", "critical-path", "belady", "clairvoyant")
TOOLS = (registry.COMPOSE, "random")
_INDEX = """\
One page a policy: what it decides, by which formula and on whose word, its parameters, what had to be
assumed, and what cannot be expressed here. `tokencake policies` lists them; `policy=module:Class` is a class of yours
([policy-howto.md](../policy-howto.md)). Any policy that asks for durations or lengths is told the truth with
`policy.info=oracle`. How much CPU time a decision takes is measured by `make bench`; a page explains what lies over
200 microseconds where a hundred calls wait, a hundred run and two hundred are stalled."""


def page(name: str) -> str:
    """The page of one policy."""
    info = registry.describe(name)
    policy = registry.class_of(name)
    lines = [f"# {name}", "", NOTE, "", _markdown(info.summary), ""]
    lines += _body(inspect.getdoc(policy) or "")
    lines += _decisions(policy)
    lines += _parameters(info.params)
    return "\n".join(lines).rstrip() + "\n"


def _body(doc: str) -> Iterator[str]:
    """The text under the first line, sections as headings."""
    _, _, text = doc.partition("\n")
    for block in re.split(r"\n(?=\S[\w ]*:\n    )", text):
        first, _, rest = block.strip("\n").partition("\n")
        if re.fullmatch(r"\S[\w ]*:", first):
            if first[:-1] not in _SKIPPED:
                yield from (f"## {first[:-1]}", "", *_paragraphs(textwrap.dedent(rest)), "")
        elif block.strip():
            yield from (*_paragraphs(block.strip("\n")), "")


def _paragraphs(text: str) -> list[str]:
    """Markdown of a docstring's text; an indented formula in double backticks becomes a code block."""
    lines: list[str] = []
    for line in text.splitlines():
        formula = re.fullmatch(r" +``(.*)``(.*)", line)
        lines.append("    " + (formula[1] + formula[2]).replace("``", "") if formula else _markdown(line))
    return lines


def _markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


def _decisions(policy: type[Policy]) -> Iterator[str]:
    if policy is registry.class_of(registry.COMPOSE):
        return
    object_ = policy()
    yield from ("## Decides", "")
    own = [hook for hook in HOOKS if overrides(object_, hook)]
    if own:
        yield from ("| decision point | |", "| --- | --- |")
    for hook in own:
        summary = (inspect.getdoc(getattr(policy, hook)) or "").partition("\n")[0]
        yield f"| `{hook}` | {_markdown(summary)} |"
    yield "" if own else "Nothing: it is stock vLLM."
    if own:
        level = "asks for no duration and no length" if policy.info is Info.NONE else f"`{policy.info.name.lower()}`"
        yield f"Information level: {level}."
    for hook, (other, reason) in policy.together.items():
        yield from ("", f"In a composition, `{hook}` needs `{other}` from this policy, too: {reason}.")
    yield ""


def _parameters(params: tuple[Param, ...]) -> Iterator[str]:
    if not params:
        return
    yield from ("## Parameters", "", "| parameter | default | type | meaning |", "| --- | --- | --- | --- |")
    for param in params:
        default = "null" if param.default is None else str(param.default).lower()
        kind = param.type.replace("|", "\\|")
        yield f"| `policy.{param.name}` | `{default}` | {kind} | {_markdown(param.doc)} |"
