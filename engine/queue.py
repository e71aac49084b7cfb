"""Waiting queues for vLLM's scheduler that ask a policy, at the moment when vLLM looks for the next request.

``Scheduler.schedule`` asks a queue three things while it admits: is there a request (``__bool__``),
which one comes next (``peek_request``), and give it to me (``pop_request``). A queue that computes
the first answer by asking the policy decides with the memory and the budget of that very moment,
and needs no copy of ``schedule``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vllm.v1.core.sched.request_queue import FCFSRequestQueue, RequestQueue

if TYPE_CHECKING:
    from vllm.v1.request import Request

    from tokencake.engine.scheduler import Asking


class PolicyQueue(RequestQueue):
    """Requests in order of arrival, preempted ones first; a policy says which is tried next.

    A request that vLLM passes over keeps its place.
    """

    def __init__(self, scheduler: Asking):
        self._scheduler = scheduler
        self._places: dict[Request, int] = {}
        self._taken: dict[Request, int] = {}
        self._first = self._last = 0
        self._offered: Request | None = None
        self._offers: Iterator[Request] | None = None

    def begin(self) -> None:
        """A plan begins: nothing has been offered yet."""
        self._offered = self._offers = None
        self._taken.clear()

    def add_request(self, request: Request) -> None:
        """Put a request at the tail."""
        self._last += 1
        self._places[request] = self._last

    def prepend_request(self, request: Request) -> None:
        """Put a preempted request at the head."""
        self._first -= 1
        self._places[request] = self._first

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Put requests that vLLM passed over back where they were."""
        for request in requests:
            self._places[request] = self._taken.pop(request)

    def peek_request(self) -> Request:
        """The request to be tried now."""
        return self._offered if self._offered is not None else next(iter(self))

    def pop_request(self) -> Request:
        """Take the request that was tried."""
        request = self.peek_request()
        self._offered = None
        self._taken[request] = self._places.pop(request)
        return request

    def remove_request(self, request: Request) -> None:
        """Remove a request."""
        del self._places[request]

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Remove those of the requests that are in the queue."""
        for request in requests:
            self._places.pop(request, None)

    def __bool__(self) -> bool:
        """While vLLM admits: whether one more request is to be tried; asks the policy."""
        scheduler = self._scheduler
        if not scheduler.admitting:
            return bool(self._places)
        if scheduler.closed:
            return False
        scheduler.tell_started()
        if not self._places:
            return False
        if len(scheduler.running) >= scheduler.max_num_active_reqs:
            return bool(self._places)  # vLLM looks at that next, and stops
        if self._offered is None:
            if self._offers is None:
                self._offers = scheduler.hooks.offers()
            self._offered = next(self._offers, None)
        return self._offered is not None

    def __len__(self) -> int:
        """Number of requests."""
        return len(self._places)

    def __iter__(self) -> Iterator[Request]:
        """Requests in queue order."""
        return iter(sorted(self._places, key=self._places.__getitem__))


class HoldingQueue(FCFSRequestQueue):
    """Requests that hold memory while a copy fills it; nobody is admitted in a closed plan."""

    def __init__(self, scheduler: Asking):
        super().__init__()
        self._scheduler = scheduler

    def __bool__(self) -> bool:
        """Whether a request is to be tried."""
        scheduler = self._scheduler
        if scheduler.admitting:
            if scheduler.closed:
                return False
            scheduler.tell_started()
        return len(self) > 0
