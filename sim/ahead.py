"""Steps that nothing can disturb, taken at once.

Between two events (an arrival, a tool's or a transfer's end, a timer) and as long as no call ends, the
coming decode steps are known: nobody can be added, nothing is freed. Their number follows from the
next event, the next end of a call and the free blocks; their time is a sum that a piecewise linear
latency model gives exactly. ``engine.jumps=false`` takes every step by itself.
"""

from __future__ import annotations

import math
from itertools import accumulate, chain, repeat
from operator import mul
from typing import TYPE_CHECKING

from tokencake.policies.api import overrides
from tokencake.sim.config import wake_ps
from tokencake.sim.step import Step

if TYPE_CHECKING:
    from tokencake.sim.host import Host


class Ahead:
    """Takes a host's coming steps as far as they are certain.

    Args:
        host: The host whose pipeline is full.
    """

    def __init__(self, host: Host):
        self._host = host
        self._clock = host.clock
        self._pool = host.pool
        self._scheduler = host.scheduler
        self._decodes = host.scheduler.decodes
        self._inflight = host.scheduler.inflight
        self._latency = host.latency
        self._depth = host.config.engine.pipeline
        self._copies = host.config.engine.cpu_blocks > 0
        self._places = overrides(host.policy, "place")
        self._changes = overrides(host.policy, "next_change")
        self._judges_waiting = overrides(host.policy, "order") or overrides(host.policy, "admit")
        self._told_of_refusals = overrides(host.policy, "admit") and overrides(host.policy, "observe")

    def jump(self, ended: Step | None) -> bool:
        """A step has ended now, and nobody prefills: take the following steps, as far as nothing disturbs them.

        Args:
            ended: The step; None if the engine was idle. To the jump, it is one in flight that ends now.

        Returns:
            Whether a step was taken; if not, nothing has changed.
        """
        scheduler, decodes, inflight = self._scheduler, self._decodes, self._inflight
        if not decodes.size or ended is None or len(inflight) != self._depth - 1:
            return False
        host = self._host
        if self._places and host.eventful:
            return False
        for step in inflight:
            if step.finishers or step.stale or step.stores:
                return False
        horizon = self._clock.coming_ps
        if scheduler.waiting or scheduler.loading:
            if host.eventful or not self._waiting_is_stuck(inflight[-1] if inflight else ended):
                return False
            if self._copies:
                if host.offloading.store_ended:
                    return False  # a waiting call may have been passed over until its blocks were written
                horizon = min(horizon, host.link.next_ps())
        if self._copies and not host.offloading.idle:
            return False
        limit, tick = decodes.next_end, decodes.tick
        if host.placement.step_timers:
            limit = min(limit, host.placement.step_timers[0])
        if self._changes:
            host.step_number = tick - 1
            limit, horizon = self._until_change(limit, horizon)
        blocks = decodes.boundary[decodes.tick % len(decodes.boundary)]
        if horizon <= ended.end_ps or limit <= tick or blocks > self._spendable():
            return False
        host.step_number = tick  # for a policy, this is the planning of that step
        if decodes.size > (scheduler.fixed_limits or scheduler.limits())[0]:
            return False
        if blocks:
            self._pool.take(scheduler.spare, blocks)
        if blocks or host.eventful:
            host.metrics.sample(ended.end_ps, eventful=host.eventful or not host.steady)
        inflight.appendleft(ended)
        while decodes.tick < limit and inflight[0].end_ps < horizon and self._jump_cell(limit, horizon, blocks):
            blocks = 0
        if decodes.next_end == decodes.tick:
            inflight[-1].finishers = decodes.pop_ended()
        host.step_number = decodes.tick - 1
        if self._copies:
            host.offloading.jumped()
        return True

    def _jump_cell(self, limit: int, horizon: int, taken: int) -> int:
        """Jump inside one linear piece of the latency model, at most to step ``limit``; returns the steps taken."""
        host = self._host
        decodes = self._decodes
        inflight = self._inflight
        batch, tick = decodes.size, decodes.tick
        context = decodes.base + batch * tick
        start, slope, end = self._latency.decode_cell(batch, context)
        steps = min((end - 1 - context) // batch + 1, limit - tick)
        first, last = inflight[0].end_ps, inflight[-1].end_ps
        rise = slope * batch
        lag = self._depth - 1
        # Step j of the jump (1, 2, ...) is planned when step j - lag - 1 of it ends, so it is
        # planned before `horizon` if the jump's first j - lag - 1 steps end before that.
        before = steps - lag - 1
        if before >= 0 and last + before * start + rise * (before * (before - 1) // 2) >= horizon:
            steps = _steps_before(horizon - last, start, rise) + 1 + lag
            if not steps:
                return 0
        needs = decodes.needs(steps)
        blocks = sum(needs)
        free = self._spendable() + taken
        if blocks > free:
            steps = decodes.steps_within(free, steps)
            if not steps:
                return 0
            del needs[steps:]
            blocks = sum(needs)
        if blocks > taken:
            # The first `lag` steps are planned when the oldest step in flight ends, the others one by one.
            gaps = range(start, start + rise * steps, rise) if rise else repeat(start, steps)
            moment = -taken * first + sum(map(mul, needs, chain(repeat(first, lag), accumulate(gaps, initial=last))))
            self._pool.take(self._scheduler.spare, blocks - taken)
            host.metrics.used_rises(blocks - taken, moment)
        self._latency.note_jump(steps, batch, context)
        host.metrics.steps += steps
        decodes.tick = tick + steps
        decodes.lag = lag
        for j in range(max(1, steps - lag), steps + 1):
            ended = inflight.popleft()
            for call in ended.firsts:
                call.first_token_ps = ended.end_ps
            step = Step(tick - 1 + j)
            step.end_ps = last + j * start + rise * (j * (j - 1) // 2)
            inflight.append(step)
        host.last_end_ps = step.end_ps
        return steps

    def _spendable(self) -> int:
        """Blocks that a jump may take without changing what a waiting call finds.

        With a CPU tier, a hit that decoding calls evict from the GPU becomes one that is loaded, which
        may need fewer blocks at once.
        """
        if self._copies and self._scheduler.waiting:
            return self._pool.free - self._pool.cached
        return self._pool.free

    def _waiting_is_stuck(self, last: Step) -> bool:
        """Whether equal decode steps cannot make a waiting call startable.

        Such steps only use up free blocks. A waiting call could need fewer blocks only if a decoding call
        computed some of its very content.

        Args:
            last: The step planned last, since when nothing has happened.
        """
        scheduler = self._scheduler
        if last.tokens > last.decodes or last.preempted:
            return False  # it was budget, or a preemption, that kept the waiting calls out
        if last.refused and self._told_of_refusals:
            return False  # the policy is told in every step, and may think of something else
        decodes = self._decodes
        if not decodes.shares_content(scheduler.running):
            return True
        for call in scheduler.waiting:
            if decodes.grows_into(call.holding.chain):
                return False
            if not self._judges_waiting and not call.program.parked:
                return True
        return True

    def _until_change(self, limit: int, horizon: int) -> tuple[int, int]:
        change = self._host.policy.next_change(self._host.view)
        if change is not None:
            at_s, step = change
            if step is not None:
                limit = min(limit, step)
            if at_s is not None:
                horizon = min(horizon, wake_ps(at_s))
        return limit, horizon


def _steps_before(room: int, start: int, rise: int) -> int:
    """Most steps, of ``start`` ps and ``rise`` more each time, that end strictly before ``room``.

    Largest ``n >= 0`` with ``n * start + rise * n * (n - 1) / 2 < room``; -1 if there is none.
    """
    if room <= 0:
        return -1
    n = room // start if start else 0
    if rise:  # a float is close, the loops below make it exact
        middle = start - rise / 2
        n = int((math.sqrt(middle * middle + 2.0 * rise * room) - middle) / rise)
    while n > 0 and n * start + rise * (n * (n - 1) // 2) >= room:
        n -= 1
    while (n + 1) * start + rise * ((n + 1) * n // 2) < room:
        n += 1
    return n
