"""The contract suite: does a policy keep the rules of :mod:`tokencake.policies.api` in a host?

Importable by outsiders, standard library only::

    from tokencake.policies.checks import check_policy
    from tokencake.sim.checks import sim_host

    def test_my_policy():
        check_policy(MyPolicy, sim_host)

A host is anything with :meth:`Host.run`; the simulator's is :func:`tokencake.sim.checks.sim_host`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

from tokencake.policies import api
from tokencake.policies.answers import wrong_attribute
from tokencake.policies.api import Event, EventKind, Policy, Trigger
from tokencake.policies.compose import parts_of
from tokencake.policies.misspelt import misspelt_hooks
from tokencake.policies.watched import Watched


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a host reports after a run.

    Attributes:
        output: Everything the run wrote, to be compared byte by byte.
        calls: LLM calls of the trace that could run.
        finished: Calls that finished.
        gpu_blocks: Capacity of the GPU tier.
        gpu_free: Blocks of it that are free at the end, cached ones included.
        cpu_pinned: Blocks of the CPU tier that are still being written or read.
    """

    output: str
    calls: int
    finished: int
    gpu_blocks: int
    gpu_free: int
    cpu_pinned: int


class Host(Protocol):
    """Runs one trace under a policy."""

    def run(self, policy: Policy, *, every_step: bool = False) -> Outcome:
        """Play the trace.

        Args:
            policy: A fresh policy.
            every_step: Ask the policy in every step, even where nothing happens that it depends on.
        """
        ...


MakePolicy = Callable[[], Policy]
MakeHost = Callable[[], Host]


def check_policy(policy: Policy | MakePolicy, make_host: MakeHost) -> None:
    """Run every check of :data:`CHECKS`.

    Args:
        policy: A policy that has not run, of which every check gets a copy; or what makes one, as a class without
            required parameters does.
        make_host: Makes a fresh host; each replays the same trace.

    Raises:
        AssertionError: The policy broke a rule; the message names it.
    """
    make_policy = (lambda: deepcopy(policy)) if isinstance(policy, Policy) else policy
    for check in CHECKS:
        check(make_policy, make_host)


def check_hooks(make_policy: MakePolicy, make_host: MakeHost) -> None:
    """Hooks are spelt and return as the interface says, and read of views only what it names and their level tells."""
    policy = make_policy()
    assert isinstance(policy, Policy), f"{type(policy).__name__} is not a tokencake.policies.api.Policy"
    misspelt = [told for part in parts_of(policy) for told in misspelt_hooks(type(part))]
    assert not misspelt, f"{'; '.join(misspelt)} (the name of a helper begins with an underscore)"
    complaint = wrong_attribute(policy)
    assert not complaint, complaint
    try:
        make_host().run(Watched(policy))
    except api.InformationError as error:
        raise AssertionError(f"{type(policy).__name__} asks for what it may not know: {error}") from error


def check_completion(make_policy: MakePolicy, make_host: MakeHost) -> None:
    """Every call finishes, and no block is held at the end."""
    outcome = make_host().run(make_policy())
    assert outcome.finished == outcome.calls, f"{outcome.finished} of {outcome.calls} calls finished"
    held = outcome.gpu_blocks - outcome.gpu_free
    assert held == 0, f"{held} of {outcome.gpu_blocks} GPU blocks are held after the last call"
    assert outcome.cpu_pinned == 0, f"{outcome.cpu_pinned} CPU blocks are in use after the last call"


def check_determinism(make_policy: MakePolicy, make_host: MakeHost) -> None:
    """A fresh policy on the same trace writes the same bytes."""
    first = make_host().run(make_policy()).output
    second = make_host().run(make_policy()).output
    assert first == second, f"two equal runs differ: {_difference(first, second)}"


def check_laziness(make_policy: MakePolicy, make_host: MakeHost) -> None:
    """Answers depend on events only, or ``next_change`` says when they change."""
    lazy = make_host().run(make_policy()).output
    asked = make_host().run(make_policy(), every_step=True).output
    assert lazy == asked, (
        "asked in every step, the policy decides otherwise than when asked only after events;"
        f" next_change must say when its answers change: {_difference(lazy, asked)}"
    )


def check_refusals(make_policy: MakePolicy, make_host: MakeHost) -> None:
    """Refused actions come back through ``observe``, and the policy lives with them."""
    policy = make_policy()
    seen: list[Event] = []
    asked: list[Trigger] = []
    observe, place = policy.observe, policy.place

    def observe_refusals(event: Event, view: api.View) -> None:
        if event.kind is EventKind.ACTION_REFUSED and event.action in NONSENSE:
            seen.append(event)
        observe(event, view)

    def place_nonsense(view: api.View, trigger: Trigger, subject: api.ChainView | None) -> list[api.Action]:
        asked.append(trigger)
        return [*place(view, trigger, subject), *NONSENSE]

    vars(policy).update(observe=observe_refusals, place=place_nonsense)
    outcome = make_host().run(policy)
    assert outcome.finished == outcome.calls, f"{outcome.finished} of {outcome.calls} calls finished"
    expected = len(asked) * len(NONSENSE)
    assert len(seen) == expected, f"{len(seen)} of {expected} illegal actions came back"
    assert all(event.reason for event in seen), "a refused action came back without a reason"


NONSENSE: tuple[api.Action, ...] = (
    api.Keep(call="no/such"),
    api.Drop(call="no/such"),
    api.Offload(call="no/such"),
    api.Prefetch(call="no/such"),
    api.Unpin(call="no/such"),
    api.Hold(1, call="no/such"),
    api.Cancel(call="no/such"),
    api.Preempt(call="no/such"),
    api.Park("no such program"),
    api.Unpark("no such program"),
    api.Reserve({"nobody": -1}),
    api.Timer(-1.0),
)
"""Actions that no host can carry out."""

CHECKS: tuple[Callable[[MakePolicy, MakeHost], None], ...] = (
    check_hooks,
    check_completion,
    check_determinism,
    check_laziness,
    check_refusals,
)
"""All checks, for a test that is parametrized by them."""


def _difference(a: str, b: str) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, at - 60)
    return f"...{a[start : at + 40]!r} against ...{b[start : at + 40]!r}"
