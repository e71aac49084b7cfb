"""One step of the vLLM 0.32 scheduler, for dense full-attention models.

``vllm/v1/core/sched/scheduler.py::Scheduler.schedule``: every call has ``computed`` tokens that
catch up with its known ``tokens``; there is no separate prefill phase. Running calls come first, in
list order, and preempt the last one when memory is short; then, if nobody was preempted, waiting
calls are admitted until one does not fit.

Two ways lead through the running calls. The explicit one asks each call in turn and is the
reference. The fast one treats all decoding calls as one (:mod:`tokencake.sim.decode`) and is taken
when the order of the calls cannot matter: the budget covers the step and no memory runs out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from tokencake.policies.api import CallView, Need, Policy, Verdict, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.decode import DecodeSet
from tokencake.sim.kv import Holding, Match

if TYPE_CHECKING:
    from tokencake.sim.blocks import BlockPool
    from tokencake.sim.config import SimConfig
    from tokencake.sim.kv import RunPool
    from tokencake.sim.view import HostView


class Step:
    """One engine iteration.

    Attributes:
        number: Counts scheduled steps from 0.
        tokens: Tokens computed.
        prefill: ``(new tokens, context)`` of each prefill chunk.
        firsts: Calls whose prompt completes, so that the step yields their next output.
        finishers: Calls that get their last output, in scheduled order.
        preempted: Whether planning it preempted a call, so that none was admitted.
        stale: Calls preempted while this step was in flight, and whether it yields an output.
    """

    __slots__ = (
        "context",
        "decodes",
        "end_ps",
        "finishers",
        "firsts",
        "number",
        "preempted",
        "prefill",
        "stale",
        "tokens",
    )

    def __init__(self, number: int):
        self.number = number
        self.tokens = 0
        self.preempted = False
        self.prefill: list[tuple[int, int]] = []
        self.decodes = 0
        self.context = 0
        self.end_ps = 0
        self.firsts: list[Call] = []
        self.finishers: list[Call] = []
        self.stale: list[tuple[Call, bool]] = []


class Watcher(Protocol):
    """What the scheduler reports to the rest of the host."""

    def admitted(self, call: Call) -> None: ...
    def preempted(self, call: Call) -> None: ...
    def computed(self, step: Step, call: Call, cause: str) -> None: ...
    def find_cpu(self, call: Call, gpu_hit: int) -> int | None: ...
    def load(self, call: Call, gpu_hit: int, blocks: int) -> None: ...
    def refuse_admission(self, call: Call, reason: str) -> None: ...
    def room(self, call: Call, blocks: int) -> bool: ...


class Scheduler:
    """Queues, running calls and memory of one engine.

    Attributes:
        waiting: Calls without KV, in queue order.
        loading: Calls that hold blocks while a copy from the CPU tier fills them (vLLM
            ``kv_holding_waiting``).
        running: Calls in scheduling order.
        inflight: Steps scheduled but not ended.
        changed: Something happened since the policy gave its order, so it is asked again.
    """

    def __init__(
        self,
        config: SimConfig,
        policy: Policy,
        pool: RunPool | BlockPool,
        watcher: Watcher,
    ):
        engine = config.engine
        self.pool = pool
        self.block_size = engine.block_size
        self.waiting: OrderedDict[Call, None] = OrderedDict()
        self.loading: list[Call] = []
        self.running: list[Call] = []
        self.prefilling: list[Call] = []
        self.inflight: deque[Step] = deque()
        self.spare = Holding(None)  # type: ignore[arg-type]  # blocks of decoding calls, not synced
        self.decodes = DecodeSet(pool, engine.block_size, self.spare)
        self.preemptions = 0
        self.view: HostView = None  # type: ignore[assignment]  # set by the host
        self._config = engine
        self._policy = policy
        self._latency = config.latency
        self._free_recompute = config.free_recompute
        self._watcher = watcher
        self._caching = engine.prefix_caching
        self._runs = 0
        self._preempted: list[Call] = []
        self._orders = overrides(policy, "order")
        self._order_drifts = overrides(policy, "next_change")
        self._ordered: Sequence[CallView] = ()
        self.changed = True
        self._admits = overrides(policy, "admit")
        self._budgets = overrides(policy, "budget")
        self._victims = overrides(policy, "victim")
        stores = policy.store_when if overrides(policy, "store") and engine.cpu_blocks else ()
        self._stores_prompts = "prompt" in stores
        self._stores_outputs = "output" in stores
        self.explicit = not engine.jumps or self._stores_outputs

    # -- one step --------------------------------------------------------------------------------

    def schedule(self) -> Step | None:
        """Plan the next step; None if there is nothing to compute."""
        budget, cap = self.limits()
        decodes = self.decodes
        step = Step(decodes.tick)
        self._preempted.clear()
        if self.explicit or not self._run_fast(step, budget, cap):
            self._run_explicit(step, budget, cap)
        if self._preempted:
            step.preempted = True
        elif self.waiting or self.loading:
            self._admit(step, budget - step.tokens, cap)
        if not step.tokens:
            return None
        if decodes.next_end() == decodes.tick:
            ended = decodes.pop_ended()
            step.finishers = ended if not step.finishers else _in_order(step.finishers + ended)
        return step

    @property
    def just_preempted(self) -> bool:
        """Whether the last plan preempted a call; it admitted none, but the next one may."""
        return bool(self._preempted)

    def duration_ps(self, step: Step) -> int:
        """Time of the step's forward pass and overhead, in picoseconds."""
        return self._latency.step_ps(step.prefill, step.decodes, step.context)

    def preempt(self, call: Call) -> None:
        """Take a running call's memory; it waits at the head and recomputes (``_preempt_request``)."""
        yields = True
        if call.decoding:
            self.decodes.leave(call)
        elif call in self.prefilling:
            self.prefilling.remove(call)
            yields = False
        self.running.remove(call)
        call.known = call.produced
        for step in self.inflight:
            if call.last_step == step.number:
                call.known -= yields
                step.stale.append((call, yields))
        call.produced = call.known
        self.changed = True
        self.pool.release(call.holding)
        call.status = Status.PREEMPTED
        call.computed = 0
        call.preemptions += 1
        self.preemptions += 1
        self.waiting[call] = None
        self.waiting.move_to_end(call, last=False)
        self._preempted.append(call)
        self._watcher.preempted(call)

    def finish(self, call: Call) -> None:
        """Take a call that has all its outputs off the lists; its blocks stay with it."""
        self.changed = True
        if call.status is Status.RUNNING:
            self.running.remove(call)
            self.pool.grow(call.holding, (call.prompt + call.output - 1) // self.block_size)
        else:
            del self.waiting[call]

    # -- running calls ---------------------------------------------------------------------------

    def limits(self) -> tuple[int, int]:
        """Token budget and chunk cap of the step that is planned next."""
        config = self._config
        budget, cap = config.max_num_batched_tokens, config.long_prefill_token_threshold
        if self._budgets:
            limits = self._policy.budget(self.view)
            if limits is not None:
                budget, cap = min(budget, limits.tokens), limits.chunk
        if cap and len(self.running) + len(self.waiting) + len(self.loading) <= 1:
            cap = 0
        return budget, cap

    def _run_fast(self, step: Step, budget: int, cap: int) -> bool:
        """Plan the running calls without asking each decode; False if that cannot be done."""
        decodes = self.decodes
        pool = self.pool
        size = self.block_size
        batch = decodes.size
        if batch > budget:
            return False
        blocks = decodes.boundary[decodes.tick % size]
        left = budget - batch
        chunks: list[tuple[Call, int]] = []
        if self.prefilling:
            asked = 0
            for call in self.prefilling:
                tokens = call.prompt + call.known - call.computed
                if cap and tokens > cap:
                    tokens = cap
                asked += tokens
                if tokens > left:
                    tokens = left
                if not tokens:
                    break
                left -= tokens
                chunks.append((call, tokens))
                blocks += -(-(call.computed + tokens) // size) - call.holding.blocks
            if asked > budget - batch and decodes.last_order > self.prefilling[0].run_order:
                return False
        if blocks > pool.free:
            return False
        if batch:
            step.decodes = batch
            step.context = decodes.context()
            taken = decodes.boundary[decodes.tick % size]
            if taken:
                pool.take(self.spare, taken)
        for call, _ in chunks:
            decodes.sync_growers(call.holding.chain)
        decodes.advance(1, len(self.inflight))
        step.tokens = batch
        for call, tokens in chunks:
            decodes.sync_growers(call.holding.chain, before=call.run_order)
            self._chunk(step, call, tokens)
        return True

    def _run_explicit(self, step: Step, budget: int, cap: int) -> None:
        """Plan the running calls one by one, as vLLM does."""
        decodes, pool, size = self.decodes, self.pool, self.block_size
        running = self.running
        scheduled: dict[Call, int] = {}
        index, left = 0, budget
        for call in running:
            if call.decoding:
                decodes.sync(call)
        while index < len(running) and left > 0:
            call = running[index]
            if call.decoding:
                tokens = 1
            elif call.produced == call.output:  # its last output is in flight
                index += 1
                continue
            else:
                tokens = call.prompt + call.known - call.computed
                if cap and tokens > cap:
                    tokens = cap
                if tokens > left:
                    tokens = left
            need = -(-(call.computed + tokens) // size) - call.holding.blocks
            while need > pool.free:
                victim = self._victim(need, call)
                at = running.index(victim)
                left += scheduled.pop(victim, 0)
                self.preempt(victim)
                if at < index:
                    index -= 1
                if victim is call:
                    break
            if call.status is not Status.RUNNING:
                break
            if need:
                pool.take(call.holding, need)
            scheduled[call] = tokens
            left -= tokens
            index += 1
            self._hash_scheduled(call, tokens)
        skipped = [c for c in running if c.decoding and c not in scheduled]
        for call in skipped:
            decodes.leave(call)
        step.decodes = decodes.size
        step.context = decodes.context()
        step.tokens = decodes.size
        decodes.advance(1, len(self.inflight))
        for call in skipped:
            decodes.join(call)
        for call, tokens in scheduled.items():
            if not call.decoding:
                self._chunk(step, call, tokens)
            elif self._stores_outputs and not (call.computed + 1) % size:
                self._watcher.computed(step, call, "output")

    def _hash_scheduled(self, call: Call, tokens: int) -> None:
        """Hash the blocks that complete in this step; vLLM does so when it allocates."""
        if call.decoding:
            late = bool(self.inflight) and call.last_step >= self.inflight[0].number
            full = (call.prompt + call.produced - late) // self.block_size
        else:
            full = (call.computed + tokens) // self.block_size
        if full > call.holding.hashed:
            self.pool.grow(call.holding, full)
            if call.decoding:
                self.decodes.watch(call)

    def _chunk(self, step: Step, call: Call, tokens: int) -> None:
        """Compute ``tokens`` more of a call's known tokens in this step."""
        holding = call.holding
        computed = call.computed
        done = computed + tokens
        size = self.block_size
        need = -(-done // size) - holding.blocks
        if need:
            self.pool.take(holding, need)
        full = done // size
        if full > holding.hashed and self._caching:
            self.pool.grow(holding, full)
        if self._free_recompute:
            known = holding.chain.computed_before(full) * size
            if known < done:
                step.prefill.append((done - max(known, computed), max(known, computed)))
        else:
            step.prefill.append((tokens, computed))
        step.tokens += tokens
        call.computed = done
        call.computed_total += tokens
        call.last_step = step.number
        if call.preemptions:
            call.recomputed += tokens
        if self._stores_prompts:
            self._watcher.computed(step, call, "prompt")
        if done == call.prompt + call.known:
            self.prefilling.remove(call)
            call.produced += 1
            if call.first_token_ps < 0:
                step.firsts.append(call)
            if call.produced == call.output:
                step.finishers.append(call)
            else:
                self.decodes.join(call)

    def _victim(self, need: int, call: Call) -> Call:
        if not self._victims:
            return self.running[-1]
        chosen = self._policy.victim(self.view, need, self.view.call(call))
        victim = self.view.find(chosen.id)
        if victim is None or victim.status is not Status.RUNNING:
            self._watcher.refuse_admission(call, f"victim {chosen.id} is not running")
            return self.running[-1]
        return victim

    # -- admission -------------------------------------------------------------------------------

    def _admit(self, step: Step, budget: int, cap: int) -> None:
        position = 0
        while budget > 0 and position < len(self.loading):
            if len(self.running) >= self._config.max_num_seqs:
                return
            call = self.loading[position]
            if call.status is Status.LOADING:
                position += 1
                continue
            self.decodes.sync_growers(call.holding.chain)
            self._loaded(call)
            tokens = self._first_chunk(call, call.computed, budget, cap)
            if -(-call.tokens // self.block_size) - call.holding.blocks > self.pool.free:
                return
            del self.loading[position]
            budget -= tokens
            self._start(step, call, tokens)
        later: list[Call] = []
        for call in self._candidates():
            if budget <= 0 or len(self.running) >= self._config.max_num_seqs:
                return
            used = self._try(step, call, budget, cap, later)
            if used is None:
                return
            budget -= used
        for call in later:
            if budget <= 0 or len(self.running) >= self._config.max_num_seqs:
                return
            used = self._try(step, call, budget, cap, None)
            if used is None:
                return
            budget -= used

    def _loaded(self, call: Call) -> None:
        """Make a finished load findable (``_update_waiting_for_remote_kv``)."""
        full = call.computed // self.block_size
        if full > call.holding.hashed:
            self.pool.grow(call.holding, full)
        if call.computed == call.tokens:
            call.computed -= 1  # the last token is computed again, to sample from it

    def _candidates(self) -> Iterator[Call]:
        if not self._orders:
            waiting = self.waiting
            while waiting:
                head = next(iter(waiting))
                if not head.program.parked:
                    yield head
                if head in waiting:  # passed over: only now is a snapshot of the rest worth it
                    for call in list(waiting):
                        if call is not head and not call.program.parked:
                            yield call
                    return
            return
        if self.changed or self._order_drifts:
            self.changed = False
            self._ordered = self._policy.order(self.view, self.view.waiting)
        seen: set[str] = set()
        for view in self._ordered:  # as far as calls are tried, which is seldom far
            named = self.view.find(view.id)
            if named is None or named not in self.waiting or view.id in seen:
                continue
            seen.add(view.id)
            if not named.program.parked:
                yield named

    def _try(self, step: Step, call: Call, budget: int, cap: int, later: list[Call] | None) -> int | None:
        """Offer one waiting call; returns the tokens it uses, or None to end the scan."""
        if self.inflight and call.last_step >= self.inflight[0].number:
            return 0  # an output from before its preemption is still in flight
        size = self.block_size
        chain = call.holding.chain
        limit = (call.tokens - 1) // size
        self.decodes.sync_growers(chain)
        match = self.pool.match(chain, limit)
        hit = match.blocks
        found = self._watcher.find_cpu(call, hit) if self.view.cpu_capacity else 0
        if found is None:
            return 0
        total = -(-call.tokens // size)
        if found:
            tokens, chunk = 0, found
        else:
            tokens = self._first_chunk(call, hit * size, budget, cap)
            chunk = -(-(hit * size + tokens) // size) - hit
        full = total - hit + match.free
        if self._admits:
            need = Need(chunk, total - hit, hit, found, match.free)
            verdict = self._policy.admit(self.view, self.view.call(call), need)
            if verdict is Verdict.LATER and later is not None:
                later.append(call)
            if verdict is Verdict.SKIP or verdict is Verdict.LATER:
                return 0
            if verdict is Verdict.STOP:
                return None
        if not self._fits(full, chunk + match.free, found) or not self._watcher.room(call, full):
            if self._admits:
                self._watcher.refuse_admission(call, "does not fit")
            return None
        self._enter(call, match, found)
        if found:
            self._watcher.load(call, hit, found)
            return 0
        self._start(step, call, tokens)
        return tokens

    def _fits(self, full: int, now: int, found: int) -> bool:
        """``KVCacheManager.allocate_slots`` for a waiting call.

        Args:
            full: Free blocks that all its known tokens would take.
            now: Free blocks that this step would take.
            found: Blocks to be loaded from the CPU tier.
        """
        free = self.pool.free
        config = self._config
        if config.watermark and self.running:
            free -= config.watermark_blocks
        if config.reserve_full_isl and full > free:
            return False
        return now <= (free - self._owed() if found else free)

    def _owed(self) -> int:
        """Blocks that admitted prefills still have to take (``_inflight_prefill_reserved_blocks``)."""
        size = self.block_size
        calls = self.prefilling + [c for c in self.loading if c.status is Status.LOADING]
        return sum(-(-c.tokens // size) - c.holding.blocks for c in calls)

    def _first_chunk(self, call: Call, computed: int, budget: int, cap: int) -> int:
        tokens = call.tokens - computed
        if cap and tokens > cap:
            tokens = cap
        return min(tokens, budget)

    def _enter(self, call: Call, match: Match, found: int) -> None:
        """Give a waiting call its prefix hit."""
        self.changed = True
        hit = match.blocks
        if hit:
            self.pool.acquire(call.holding, match)
        call.computed = hit * self.block_size
        if not call.preemptions:
            call.gpu_hit_tokens = hit * self.block_size
            call.cpu_hit_tokens = min(found * self.block_size, call.tokens - call.computed)
        del self.waiting[call]
        self._watcher.admitted(call)

    def _start(self, step: Step, call: Call, tokens: int) -> None:
        """Put a call on the running list and compute its first chunk."""
        call.status = Status.RUNNING
        self._runs += 1
        call.run_order = self._runs
        self.running.append(call)
        self.prefilling.append(call)
        self._chunk(step, call, tokens)


def _in_order(calls: list[Call]) -> list[Call]:
    return sorted(calls, key=lambda call: call.run_order)
