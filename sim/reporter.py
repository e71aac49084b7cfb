"""What a policy is told of: everything that happens, as events, if it observes at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.policies.api import Event, EventKind, Policy, overrides
from tokencake.sim.config import PS

if TYPE_CHECKING:
    from tokencake.sim.calls import Call, ProgramRun
    from tokencake.sim.host import Host
    from tokencake.traces.schema import ToolNode


class Reporter:
    """Makes events of what happens and lets a policy observe them.

    Args:
        host: Whose view the policy gets with an event.
        policy: Told.

    Attributes:
        heard: Whether the policy observes; whoever has much to tell asks first.
    """

    def __init__(self, host: Host, policy: Policy):
        self._host = host
        self._policy = policy
        self.heard = overrides(policy, "observe")

    def tell(self, event: Event) -> None:
        """Let the policy observe an event."""
        if self.heard:
            self._policy.observe(event, self._host.view)

    def program(self, kind: EventKind, at_ps: int, run: ProgramRun) -> None:
        """Tell of a program that started or finished."""
        self.tell(Event(kind, at_ps / PS, program=run.program.program))

    def tool(self, kind: EventKind, at_ps: int, run: ProgramRun, node: ToolNode) -> None:
        """Tell of a tool that started or finished."""
        if not self.heard:
            return
        elapsed_s = (at_ps - run.tool_started_ps[node.id]) / PS if kind is EventKind.TOOL_FINISHED else None
        self.tell(
            Event(
                kind,
                at_ps / PS,
                program=run.program.program,
                node=node.id,
                tool=node.tool,
                estimate_s=node.estimate_s,
                elapsed_s=elapsed_s,
            )
        )

    def call(
        self,
        kind: EventKind,
        at_ps: int,
        call: Call,
        *,
        elapsed_ps: int | None = None,
        reason: str = "",
        output_tokens: int = 0,
    ) -> None:
        """Tell of a call."""
        self.tell(
            Event(
                kind,
                at_ps / PS,
                program=call.program.program.program,
                call=call.id,
                elapsed_s=None if elapsed_ps is None else elapsed_ps / PS,
                reason=reason,
                output_tokens=output_tokens,
            )
        )
