"""Steps that nothing can disturb, taken without an event for each.

Between two events (an arrival, a tool's or a transfer's end, a timer) and as long as no call ends, the
coming steps are known: nobody can be added, nothing is freed. Prompts are then computed step by
step inside one event, and runs of decode steps are taken in closed form: their number follows from
the next event, the next end of a call and the free blocks; their time is a sum that a piecewise
linear latency model gives exactly. ``engine.jumps=false`` takes every step by an event of its own.
"""

from __future__ import annotations

import math
from itertools import accumulate, chain, count
from operator import mul
from typing import TYPE_CHECKING

from tokencake.policies.api import overrides
from tokencake.sim.config import to_ps
from tokencake.sim.step import Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokencake.sim.host import Host


def _triangular(most: int) -> Iterable[int]:
    """``j * (j - 1) / 2`` for ``j`` = 0, 1, 2, ... at least up to ``most``."""
    return _FIRST_TRIANGULAR if most < len(_FIRST_TRIANGULAR) else chain((0,), accumulate(count()))


_FIRST_TRIANGULAR = tuple(j * (j - 1) // 2 for j in range(64))


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
        self._latency = host.config.latency
        self._step_ps = self._latency.step_ps
        self._depth = host.config.engine.pipeline
        self._copies = host.config.engine.cpu_blocks > 0
        self._places = overrides(host.policy, "place")
        self._changes = overrides(host.policy, "next_change")
        self._asks = self._places or self._changes
        self._judges_waiting = overrides(host.policy, "order") or overrides(host.policy, "admit")

    def run(self) -> None:
        """Take the coming steps that nothing can disturb without an event for each.

        The oldest step in flight must end before the next event, and free nothing when it does.
        While prompts are computed and nobody waits, steps are planned one by one; steps of decodes
        alone are taken in closed form.
        """
        host = self._host
        scheduler = self._scheduler
        inflight = self._inflight
        if scheduler.prefilling and (self._asks or self._copies or scheduler.waiting or scheduler.loading):
            return
        horizon = self._clock.coming_ps
        if self._copies and (scheduler.waiting or scheduler.loading):
            horizon = min(horizon, host.link.next_ps())
        while len(inflight) == self._depth:
            oldest = inflight[0]
            now = oldest.end_ps
            if now >= horizon or oldest.finishers or oldest.stale:
                return
            if not scheduler.prefilling:
                if not self._jump(horizon):
                    return
                continue
            if scheduler.waiting:  # a call that was preempted
                return
            self._clock.now_ps = now
            self._pop_quietly()
            host.step_number = self._decodes.tick
            step = scheduler.schedule()
            if step is None:
                if inflight:
                    host.metrics.sample(now)
                else:  # the calls that ran were preempted; plan again at that time
                    host.plan_at(now)
                return
            last = host.last_end_ps
            step.end_ps = host.last_end_ps = (now if now > last else last) + self._step_ps(
                step.prefill, step.decodes, step.context
            )
            inflight.append(step)
            host.metrics.steps += 1
            if step.preempted:
                host.metrics.sample(now)
            else:
                host.metrics.used_is(now)

    def resume(self, now: int) -> bool:
        """Go on from the end of a step, if nothing but decodes can follow it; False changes nothing.

        To the jump, the step that has just ended is one in flight that ends now.
        """
        scheduler = self._scheduler
        if scheduler.prefilling or scheduler.waiting or scheduler.loading or self._asks or self._copies:
            return False
        decodes = self._decodes
        inflight = self._inflight
        if not decodes.size or len(inflight) != self._depth - 1 or self._clock.coming_ps <= now:
            return False
        if decodes.size > (scheduler.fixed_limits or scheduler.limits())[0]:
            return False
        if inflight and (inflight[0].finishers or inflight[0].stale):
            return False
        blocks = decodes.next_blocks
        if blocks > self._pool.free:
            return False
        if blocks:
            self._pool.take(scheduler.spare, blocks)
        self._host.metrics.sample(now)
        ended = Step(decodes.tick - self._depth)
        ended.end_ps = now
        inflight.appendleft(ended)
        self._jump(self._clock.coming_ps, blocks)
        return True

    def _pop_quietly(self) -> None:
        """End the oldest step in flight, which ends no call."""
        step = self._inflight.popleft()
        for call in step.firsts:
            call.first_token_ps = step.end_ps

    def _jump(self, horizon: float, taken: int = 0) -> int:
        """Take the coming decode-only steps in closed form.

        Args:
            horizon: When something else happens.
            taken: New blocks of the first step that it has already.

        Returns:
            Number of steps.
        """
        host = self._host
        scheduler = self._scheduler
        decodes = self._decodes
        inflight = self._inflight
        if not decodes.size or decodes.size > (scheduler.fixed_limits or scheduler.limits())[0]:
            return 0
        if self._places and host.eventful:
            return 0  # the policy is asked in the next step
        for step in inflight:
            if step.finishers or step.stale or (self._copies and host.offloading.awaits(step)):
                return 0
        if self._copies and host.offloading.exposed:
            return 0
        if (scheduler.waiting or scheduler.loading) and not self._waiting_is_stuck():
            return 0
        before = decodes.tick
        limit = decodes.next_end
        if self._changes:
            limit, horizon = self._until_change(limit, horizon)
        while decodes.tick < limit and inflight[0].end_ps < horizon and self._jump_cell(limit, horizon, taken):
            taken = 0
        if decodes.next_end == decodes.tick:
            inflight[-1].finishers = decodes.pop_ended()
        host.step_number = decodes.tick - 1
        return decodes.tick - before

    def _jump_cell(self, limit: int, horizon: float, taken: int) -> int:
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
            steps = _steps_before(int(horizon) - last, start, rise) + 1 + lag
            if not steps:
                return 0
        needs = decodes.needs(steps)
        blocks = sum(needs)
        free = self._pool.free + taken
        if blocks > free:
            steps = decodes.steps_within(free, steps)
            if not steps:
                return 0
            del needs[steps:]
            blocks = sum(needs)
        if blocks > taken:
            # The first `lag` steps are planned when the oldest step in flight ends, the others one by one.
            early = sum(needs[:lag]) if lag else 0
            late = needs[lag:] if lag else needs
            moment = early * first + (blocks - early) * last - taken * first
            moment += start * sum(map(mul, late, count())) + rise * sum(map(mul, late, _triangular(steps)))
            self._pool.take(self._scheduler.spare, blocks - taken)
            host.metrics.used_rises(blocks - taken, moment)
        self._latency.note_jump(steps, batch, context)
        host.metrics.steps += steps
        decodes.tick = tick + steps
        decodes.lag = lag
        for j in range(max(1, steps - lag), steps + 1):
            self._pop_quietly()
            step = Step(tick - 1 + j)
            step.end_ps = last + j * start + rise * (j * (j - 1) // 2)
            inflight.append(step)
        host.last_end_ps = step.end_ps
        return steps

    def _waiting_is_stuck(self) -> bool:
        """Whether equal decode steps cannot make a waiting call startable.

        Such steps only use up free blocks. A waiting call could need fewer blocks only if a decoding call
        computed some of its very content.
        """
        scheduler = self._scheduler
        last = self._inflight[-1]
        if last.tokens > last.decodes or last.preempted:
            return False  # it was budget, or a preemption, that kept the waiting calls out
        decodes = self._decodes
        if not decodes.shares_content(scheduler.running):
            return True
        for call in scheduler.waiting:
            if decodes.grows_into(call.holding.chain):
                return False
            if not self._judges_waiting and not call.program.parked:
                return True
        return True

    def _until_change(self, limit: int, horizon: float) -> tuple[int, float]:
        change = self._host.policy.next_change(self._host.view)
        if change is not None:
            at_s, step = change
            if step is not None:
                limit = min(limit, step)
            if at_s is not None:
                horizon = min(horizon, to_ps(at_s))
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
