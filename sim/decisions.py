"""The decision log: what a policy was asked, what it saw, what it answered, and what became of it.

One format for every host. Hooks may be asked more or less often about the same thing (a host jumps over
steps in which nothing changes), so an answer is noted when it differs from the one before; actions
and preemptions are noted every time. What a policy leaves to the engine is no decision of the policy's: of a hook
that it does not override there are no rows (when a call was admitted, is in the table of calls).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from tokencake.policies.api import Need, Verdict, overrides
from tokencake.sim.calls import Status
from tokencake.sim.config import PS
from tokencake.sim.records import DECISION_COLUMNS, Table

if TYPE_CHECKING:
    from tokencake.sim.host import Host


class DecisionLog:
    """Notes decisions while a host runs.

    Args:
        host: Whose decisions.

    Attributes:
        table: One row a decision.
    """

    def __init__(self, host: Host):
        self.table = Table(DECISION_COLUMNS)
        self._host = host
        self._last: dict[tuple[str, str], str] = {}
        if host.config.log_decisions:
            self._listen()

    def add(
        self, hook: str, subject: str, decision: str, outcome: str, asked: str = "", seen: str | None = None
    ) -> None:
        """Note one decision.

        Args:
            hook: Hook and trigger, or ``preempted`` for what the engine then did.
            subject: Call or chain concerned.
            decision: The answer.
            outcome: ``done``, or why not.
            asked: What the hook was given besides the view.
            seen: What :meth:`seen` said when the policy was asked; None: nothing has changed since.
        """
        host = self._host
        if not host.config.log_decisions:
            return
        seen = self.seen(asked) if seen is None else seen
        digest = blake2b(f"{host.now_ps}/{seen}".encode(), digest_size=8).hexdigest()
        self.table.add(host.now_ps / PS, host.step_number, hook, subject, decision, outcome, digest, seen)

    def seen(self, asked: str = "") -> str:
        """The view at this moment, as far as every host has it; empty where nothing is logged."""
        if not self._host.config.log_decisions:
            return ""
        view = self._host.view
        return json.dumps(
            {
                "waiting": [call.id for call in view.waiting],
                "running": [call.id for call in view.running],
                "loading": [call.id for call in view.loading],
                "stalled": [chain.call.id for chain in view.stalled],
                "gpu_free": view.gpu.free,
                "cpu_cached": view.cpu.cached,
                "reserved": dict(view.reserved),
                "asked": asked,
            },
            separators=(",", ":"),
        )

    def _changed(self, hook: str, subject: str, decision: str, outcome: str, asked: str = "") -> None:
        if self._last.get((hook, subject)) != decision:
            self._last[hook, subject] = decision
            self.add(hook, subject, decision, outcome, asked)

    def _listen(self) -> None:
        """Note the answers of the hooks that a policy overrides."""
        policy = self._host.policy
        for hook, listener in (
            ("order", self._order),
            ("admit", self._admit),
            ("budget", self._budget),
            ("victim", self._victim),
            ("store", self._store),
        ):
            if overrides(policy, hook):
                vars(policy)[hook] = listener(getattr(policy, hook))

    def _order(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def order(view: Any, waiting: Any) -> Any:
            answer = list(hook(view, waiting))
            self._changed("order", "", " ".join(call.id for call in answer), "done")
            return answer

        return order

    def _admit(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def admit(view: Any, call: Any, need: Need) -> Any:
            verdict = hook(view, call, need)
            outcome = "done" if need.fits or verdict is not Verdict.ADMIT else "does not fit"
            self._changed("admit", call.id, getattr(verdict, "name", repr(verdict)), outcome, repr(need))
            return verdict

        return admit

    def _budget(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def budget(view: Any) -> Any:
            limits = hook(view)
            self._changed("budget", "", repr(limits), "done")
            return limits

        return budget

    def _victim(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def victim(view: Any, need: int, for_call: Any) -> Any:
            chosen = hook(view, need, for_call)
            named = view.find(chosen.id)
            outcome = "done"
            if named is None or named.status is not Status.RUNNING:
                outcome = "not running"
            elif not self._host.scheduler.can_be_freed(named):
                outcome = "its step is in flight"
            self.add("victim", for_call.id, chosen.id, outcome, str(need))
            return chosen

        return victim

    def _store(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def store(view: Any, chain: Any, cause: str) -> Any:
            blocks = hook(view, chain, cause)
            self._changed(f"store:{cause}", chain.call.id, str(blocks), "done", str(chain.blocks))
            return blocks

        return store
