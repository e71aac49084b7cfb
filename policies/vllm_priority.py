"""vLLM's priority scheduling, with the arrival of a call's program as its priority."""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.policies.api import CallView, Info, Policy, View


class VllmPriority(Policy):
    """vLLM with scheduling policy ``priority``: the calls of the program that arrived first go first.

    vLLM 0.32 keeps waiting requests in a heap ordered by priority, arrival time and id
    (``v1/core/sched/request_queue.py::PriorityRequestQueue``, ``v1/request.py::Request.__lt__``), to
    which a preempted request returns like any other. When memory is short it preempts the running
    request with the largest priority and arrival time, the first of them if they tie
    (``v1/core/sched/scheduler.py::Scheduler.schedule``).
    """

    info = Info.NONE

    def __init__(self) -> None:
        self._places: dict[str, tuple[float, float, str]] = {}

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Program arrival, then call arrival, then id."""
        return sorted(waiting, key=self._place)

    def _place(self, call: CallView) -> tuple[float, float, str]:
        place = self._places.get(call.id)
        if place is None:  # it never changes, and a long queue is sorted often
            place = self._places[call.id] = (*_priority(call), call.id)
        return place

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call whose program arrived last, and in it the one that arrived last."""
        return max(view.running, key=_priority)


def _priority(call: CallView) -> tuple[float, float]:
    return call.program.arrival_s, call.arrival_s
