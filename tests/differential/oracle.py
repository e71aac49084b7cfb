"""The oracle: vLLM's real scheduler in virtual time.

``EngineCore.step`` and ``EngineCore.step_with_batch_queue`` without their model: the outputs are
the trace's tokens, and a step takes the time that a tokencake latency model gives it. What happens
while a step runs is delivered when it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agents import Agents, Issued
from cases import LivelockError

from tokencake.engine.contents import Contents, block_hasher
from tokencake.engine.requests import make_request
from tokencake.engine.stock import make_scheduler
from tokencake.sim.config import PS, SimConfig
from tokencake.traces.schema import Program

_SPINS = 8
_MOST_STEPS = 20_000


@dataclass
class Seen:
    """What became of one call; times in picoseconds, -1 for not yet."""

    issued: Issued
    request: Any
    output: list[int]
    admitted_ps: int = -1
    first_token_ps: int = -1
    finish_ps: int = -1
    gpu_hit_tokens: int = 0
    computed_tokens: int = 0
    preemptions: int = 0
    decoding: bool = False


@dataclass
class Batch:
    """A scheduled step: vLLM's output, the sampled tokens by request, and when it is done."""

    scheduled: Any
    sampled: dict[str, list[int]]
    end_ps: int


@dataclass
class Outcome:
    """Result of a run.

    Attributes:
        calls: By program and node.
        makespan_ps: End of the last program.
        steps: Steps that computed something.
        log: ``(start, end, tokens by call)`` of those steps.
        scheduler: The vLLM scheduler, as the run left it.
    """

    calls: dict[tuple[str, str], Seen]
    makespan_ps: int
    steps: int
    log: list[tuple[int, int, dict[str, int]]] = field(default_factory=list)
    scheduler: Any = None


class Oracle:
    """One run of vLLM's scheduler.

    Args:
        config: The simulator's configuration; latency, engine and workload are used.
        policy: vLLM's queue: ``fcfs``, or ``priority`` by the program's arrival.
    """

    def __init__(self, config: SimConfig, policy: str = "fcfs"):
        self._config = config
        self._contents = Contents(config.engine.block_size)
        self._scheduler = make_scheduler(config.engine, policy)
        self._seen: dict[str, Seen] = {}
        self._last_end = 0
        self._log: list[tuple[int, int, dict[str, int]]] = []

    def run(self, programs: Iterable[Program]) -> Outcome:
        """Replay programs to their end; raises `LivelockError` if there is none."""
        agents = Agents(programs, self._config.workload, self._submit)
        scheduler = self._scheduler
        queue: deque[Batch] = deque()
        depth = self._config.engine.pipeline
        now = spins = 0
        while True:
            agents.play(now)
            if not scheduler.has_requests() and not queue:
                coming = agents.next_ps()
                if coming is None:
                    break
                now = coming
                continue
            if scheduler.has_requests():
                batch = self._schedule(now)
                queue.appendleft(batch)
                executed = bool(batch.sampled)
                if len(queue) < depth and (executed or scheduler.has_requests()):
                    continue
            batch = queue.pop()
            if batch.end_ps > now:
                agents.play(batch.end_ps - 1)
                now, spins = batch.end_ps, 0
            else:
                spins += 1
                if spins > _SPINS and not any(b.sampled for b in queue):
                    raise RuntimeError(f"vLLM schedules nothing at {now} ps")
            self._update(batch, now, agents)
            if len(self._log) > _MOST_STEPS:
                raise LivelockError(f"{_MOST_STEPS} steps")
        calls = {seen.issued.key: seen for seen in self._seen.values()}
        return Outcome(calls, agents.end_ps, len(self._log), self._log, scheduler)

    def _submit(self, issued: Issued) -> None:
        content = issued.content
        name = "/".join(issued.key)
        request = make_request(
            name,
            self._contents.ids(content.prompt),
            issued.node.output_tokens,
            block_hasher(self._config.engine.block_size),
            priority=issued.run.rank,
            arrival_s=issued.arrival_ps / PS,
        )
        self._seen[name] = Seen(issued, request, self._contents.ids(content.output))
        self._scheduler.add_request(request)

    def _schedule(self, now: int) -> Batch:
        scheduled = self._scheduler.schedule()
        prefill: list[tuple[int, int]] = []
        sampled: dict[str, list[int]] = {}
        decodes = context = 0
        hits = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        for name, tokens in scheduled.num_scheduled_tokens.items():
            seen = self._seen[name]
            request = seen.request
            before = request.num_computed_tokens - tokens
            if seen.admitted_ps < 0:
                seen.admitted_ps = now
                seen.gpu_hit_tokens = hits[name]
            if request.num_preemptions != seen.preemptions:
                seen.preemptions = request.num_preemptions
                seen.decoding = False
            if seen.decoding:
                decodes += 1
                context += before + 1
            else:
                prefill.append((tokens, before))
            seen.computed_tokens += tokens
            seen.decoding = not request.is_prefill_chunk
            position = request.num_computed_tokens - request.num_prompt_tokens
            sampled[name] = [seen.output[position]] if seen.decoding else []
        start = max(now, self._last_end)
        if sampled:
            self._last_end = start + self._config.latency.step_ps(prefill, decodes, context)
            self._log.append((start, self._last_end, dict(scheduled.num_scheduled_tokens)))
        return Batch(scheduled, sampled, self._last_end if sampled else start)

    def _update(self, batch: Batch, now: int, agents: Agents) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(batch.sampled)
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: i for i, name in enumerate(names)},
            sampled_token_ids=[list(batch.sampled[name]) for name in names],
        )
        results = self._scheduler.update_from_output(batch.scheduled, output)
        agents.now(now)
        for result in results.values():
            for item in result.outputs:
                seen = self._seen[item.request_id]
                if item.new_token_ids and seen.first_token_ps < 0:
                    seen.first_token_ps = now
                if item.finish_reason is not None:
                    seen.finish_ps = now
                    seen.preemptions = seen.request.num_preemptions
                    got = list(seen.request.output_token_ids)
                    assert got == seen.output, f"{item.request_id} did not get the trace's tokens"
                    agents.ended(seen.issued.run, seen.issued.node)
