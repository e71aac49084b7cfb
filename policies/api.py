"""The policy interface: what a scheduling policy may decide, and what it may see.

A policy is one plain object. Every method has a default that *is* stock vLLM, so an empty subclass
of :class:`Policy` is the baseline, and a host skips every hook that a policy does not override.
Hooks are pure decisions: they read a :class:`View`, return values, and change nothing but the
policy's own state. The host checks legality and executes; what it refuses comes back through
:meth:`Policy.observe`.

Times are seconds. Sizes say their unit. Calls and KV chains are named by the id of the call,
``"<program>/<node>"``.

Order of one step, in every host: deliver events, then ``place(STEP)``, running calls in list order
(with ``victim``), and, if nobody was preempted, ``order`` and ``admit``; then the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

from tokencake.policies.actions import (
    Action,
    Cancel,
    Drop,
    Hold,
    Keep,
    Offload,
    Park,
    Preempt,
    Prefetch,
    Release,
    Reserve,
    Timer,
    Unpark,
    Unpin,
)
from tokencake.policies.events import Event, EventKind, Trigger
from tokencake.policies.views import (
    CallView,
    ChainView,
    CostView,
    InformationError,
    LinkView,
    Need,
    ProgramView,
    TierView,
    ToolView,
    View,
)

__all__ = [
    "Action",
    "Budget",
    "CallView",
    "Cancel",
    "ChainView",
    "CostView",
    "Drop",
    "Event",
    "EventKind",
    "Hold",
    "Info",
    "InformationError",
    "Keep",
    "LinkView",
    "Need",
    "Offload",
    "Park",
    "Policy",
    "Preempt",
    "Prefetch",
    "ProgramView",
    "Release",
    "Reserve",
    "TierView",
    "Timer",
    "ToolView",
    "Trigger",
    "Unpark",
    "Unpin",
    "Verdict",
    "View",
    "overrides",
    "stock_admit",
]


class Info(Enum):
    """How much of the truth a policy may ask for, from nothing to everything."""

    NONE = 0
    CLASS_MEAN = 1
    HISTORY = 2
    NOISY_ORACLE = 3
    ORACLE = 4


class Verdict(Enum):
    """Answer of :meth:`Policy.admit`."""

    ADMIT = auto()
    SKIP = auto()
    """Try the next waiting call."""
    LATER = auto()
    """Offer this call once more, after all the others."""
    STOP = auto()
    """Admit nobody else in this step."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one step.

    Attributes:
        tokens: Token budget; never above the configured one.
        chunk: Most prefill tokens of one call (0: no cap).
    """

    tokens: int
    chunk: int = 0


def stock_admit(need: Need) -> Verdict:
    """vLLM 0.32 admission: what does not fit ends the scan, so that nobody behind is tried.

    ``KVCacheManager.allocate_slots``: by default the whole known input must fit
    (``full_sequence_must_fit``); the host's configuration may say otherwise.
    """
    return Verdict.ADMIT if need.fits else Verdict.STOP


class Policy:
    """Base class of all policies; as it stands, it is stock vLLM with FCFS and prefix caching.

    Attributes:
        info: Information level; a host masks what lies above it. ``NONE`` for a policy that asks for no
            duration and no length.
        store_when: Causes for which ``store`` is asked.
        offloads: Whether ``place`` copies KV to the CPU tier. Decides nothing: a run without a CPU tier says so.
        together: Decision points that make sense only with another one of the same policy, when
            policies are composed: hook to that other hook and the reason.
        better_with: Decision points that lose what they rely on when another one is not the same policy's;
            a composition may separate them, and a run says so.
    """

    info: Info = Info.HISTORY
    store_when: tuple[str, ...] = ("prompt",)
    offloads: bool = False
    together: ClassVar[Mapping[str, tuple[str, str]]] = {}
    better_with: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def observe(self, event: Event, view: View) -> None:
        """Learn from an event; decides nothing."""

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Order in which waiting calls are tried; one left out is deferred."""
        return waiting

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """Whether a waiting call starts now. ADMIT of what does not fit counts as STOP."""
        return stock_admit(need)

    def budget(self, view: View) -> Budget | None:
        """Limits of this step; None keeps the configured ones."""
        return None

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """Running call to preempt when ``need`` blocks are missing; asked once per preemption."""
        return view.running[-1]

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """What to do with KV; an action without a call id concerns the subject."""
        return ()

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """Key that says whose cached KV goes first (smaller first) in ``"gpu"`` or ``"cpu"``.

        The key is given the call that last released the KV (in the CPU tier: the call that stored it).
        Empty blocks always go before cached ones, equal keys by release order, and on the GPU no block
        before the free ones that follow it, so that a head outlives the chains that share it. None is
        plain LRU.
        """
        return None

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Leading blocks of a chain to copy to the CPU tier, without holding them.

        Args:
            view: State of the host.
            chain: Chain of the call concerned.
            cause: One of :attr:`store_when`: ``"prompt"`` (a prefill chunk was scheduled),
                ``"output"`` (a decode step completes a block) or ``"finished"``.

        Returns:
            Number of leading blocks; those that the tier has already are not copied again.
        """
        return 0

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Earliest time (seconds) and step at which the answers may change without an event.

        None means that they depend on events only. ``(None, view.step + 1)`` means every step. While nothing
        runs and calls wait, the host plans at that time.
        """
        return None


def overrides(policy: Policy, hook: str) -> bool:
    """Whether a policy decides at a hook, so that hosts can skip the ones it does not."""
    return getattr(type(policy), hook) is not getattr(Policy, hook) or hook in vars(policy)
