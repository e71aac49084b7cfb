"""The numbered invariants of ``docs/invariants.md``, on random worlds and on small analytic cases."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.policies.api import Policy
from tokencake.sim.config import PS, EngineConfig, LinkConfig, SimConfig, to_ps
from tokencake.sim.host import Host
from tokencake.sim.invariants import verify
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.graph import topological_order
from tokencake.traces.schema import LLMNode, Piece, Program


def played(programs, config, policy, *, check_events):
    """A host that has played a trace, optionally verified whenever steps have been planned."""
    host = Host(config, policy, iter(programs), Knowledge())
    if check_events:
        host.after_plan = lambda: verify(host)
    host.run()
    return host


def rows_of(table):
    """The rows of a result table, as dictionaries."""
    return [dict(zip(table.names, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]


@given(data=st.data())
def test_1_2_3_blocks_and_calls_are_conserved_after_every_plan(data, worlds, with_engine):
    programs, config, make_policy = data.draw(worlds)
    config = with_engine(config, jumps=data.draw(st.booleans()))
    host = played(programs, config, make_policy(), check_events=True)
    assert host.pool.free == host.pool.capacity
    assert host.cpu.pinned == 0


@given(data=st.data())
def test_4_every_call_of_a_program_that_is_not_refused_finishes_once(data, worlds):
    programs, config, make_policy = data.draw(worlds)
    result = simulate(programs, config, make_policy())
    rows = result.programs.columns
    assert sorted(rows["program"]) == sorted(program.program for program in programs)
    refused = {name for name, flag in zip(rows["program"], rows["refused"], strict=True) if flag}
    calls = result.calls.columns
    seen = list(zip(calls["program"], calls["call"], strict=True))
    assert len(seen) == len(set(seen))
    for program in programs:
        if program.program not in refused:
            wanted = {node.id for node in program.nodes if isinstance(node, LLMNode)}
            assert {call for name, call in seen if name == program.program} == wanted


def start_ps(node, before, workload):
    """When a node of a program starts, given when what it waits for has ended (``docs/model.md``, Programs)."""
    start = before + to_ps(node.delay_s)
    if isinstance(node, LLMNode) and node.after:
        start += to_ps(workload.client_delay_s)
    if workload.calls == "timed" and node.at_s is not None:
        start = max(start, to_ps(node.at_s))
    return start


@given(data=st.data())
def test_5_causes_come_before_effects(data, worlds):
    programs, config, make_policy = data.draw(worlds)
    result = simulate(programs, config, make_policy())
    runs = {run["program"]: run for run in rows_of(result.programs)}
    calls = {(call["program"], call["call"]): call for call in rows_of(result.calls)}
    for call in calls.values():
        if call["status"] == "finished":
            assert call["arrival_s"] <= call["admitted_s"] <= call["first_token_s"] <= call["finish_s"]
    for program in programs:
        run = runs[program.program]
        begin = to_ps(run["arrival_s"])
        assert config.workload.concurrency or begin == to_ps(program.arrival_s)
        if run["refused"]:
            continue
        ends = {}
        for node in (program.nodes[i] for i in topological_order(program.nodes)):
            start = start_ps(node, max((ends[name] for name in node.after), default=begin), config.workload)
            if isinstance(node, LLMNode):
                call = calls[program.program, node.id]
                assert to_ps(call["arrival_s"]) == start
                ends[node.id] = to_ps(call["finish_s"])
            else:
                ends[node.id] = start + to_ps(node.duration_s)
        assert to_ps(run["finish_s"]) == max(ends.values())


@given(data=st.data())
def test_6_the_link_moves_no_more_than_its_bandwidth(data, worlds):
    programs, config, make_policy = data.draw(worlds)
    if config.link.free:
        return
    result = simulate(programs, config, make_policy())
    columns = result.transfers.columns
    assert columns["finish_s"] == sorted(columns["finish_s"])
    for way, gb_s in (("d2h", config.link.d2h_gb_s), ("h2d", config.link.h2d_gb_s)):
        rows = [
            (start, finish, size)
            for start, finish, direction, size, status in zip(
                columns["start_s"],
                columns["finish_s"],
                columns["direction"],
                columns["bytes"],
                columns["status"],
                strict=True,
            )
            if direction == way and status == "done"
        ]
        for start, _, _ in rows:
            for _, finish, _ in rows:
                inside = sum(size for s, f, size in rows if s >= start and f <= finish)
                assert inside <= gb_s * 1e9 * max(0.0, finish - start) * (1 + 1e-9) + 1


@given(data=st.data())
def test_7_same_seed_same_bytes(data, worlds):
    programs, config, make_policy = data.draw(worlds)
    first, second = (simulate(programs, config, make_policy()) for _ in range(2))
    for name in ("programs", "calls", "transfers", "kv", "decisions"):
        assert getattr(first, name).columns == getattr(second, name).columns
    assert first.summary == second.summary


# -- analytic limits ----------------------------------------------------------------------------------


def queue_of_one(service_s, seed, *, number=4000, rate=0.7):
    """Calls of one token each, one at a time: a single-server queue with Poisson arrivals."""
    rng = random.Random(seed)
    at, programs = 0.0, []
    for i in range(number):
        at += rng.expovariate(rate)
        outputs = service_s(rng)
        programs.append(Program(f"p{i}", "app", at, (LLMNode("c", (), "a", "a", (Piece(f"x{i}", 1),), outputs),)))
    engine = EngineConfig(gpu_blocks=10**6, max_num_seqs=1, max_model_len=10**6)
    latency = LinearLatency(LinearCoefficients(10_000.0))  # every step takes 10 ms
    return simulate(programs, SimConfig(engine, latency, 1000), Policy())


def mean_wait(result):
    return result.summary["queue_s"]["mean"]


def test_8_a_queue_with_constant_service_waits_as_pollaczek_and_khinchine_say():
    """M/D/1 at load 0.7: the mean wait is rho / (2 (1 - rho)) services, here 7/6 s."""
    waits = [mean_wait(queue_of_one(lambda rng: 100, seed)) for seed in range(4)]
    assert sum(waits) / len(waits) == pytest.approx(0.7 / (2 * 0.3), rel=0.1)


def test_8_a_queue_with_exponential_service_waits_twice_as_long():
    """M/M/1 at load 0.7: the mean wait is rho / (1 - rho) services, here 7/3 s."""
    waits = [mean_wait(queue_of_one(lambda rng: max(1, round(rng.expovariate(0.01))), seed)) for seed in range(6)]
    assert sum(waits) / len(waits) == pytest.approx(0.7 / 0.3, rel=0.15)


def test_9_littles_law():
    """Mean number in the system is arrival rate times mean time in it, exactly, over a whole run."""
    summary = queue_of_one(lambda rng: 100, 0, number=500).summary
    inside = summary["running_mean"] + summary["waiting_mean"]
    total = summary["call_latency_s"]["mean"] * summary["calls"]
    # A call counts as running until the step after its last is planned, at most one step of 10 ms.
    assert inside * summary["makespan_s"] == pytest.approx(total, abs=0.011 * summary["calls"])


def test_10_a_schedule_worked_by_hand():
    """Two prompts of 24 tokens, budget 32, 10 ms a step: chunks 24 + 8, then 16 and a decode, then decodes."""
    programs = [Program(n, "app", 0.0, (LLMNode("c", (), "a", "a", (Piece(n, 24),), 2),)) for n in ("first", "second")]
    engine = EngineConfig(gpu_blocks=20, max_num_batched_tokens=32)
    latency = LinearLatency(LinearCoefficients(10_000.0))
    columns = simulate(programs, SimConfig(engine, latency, 1000), Policy()).calls.columns
    assert columns["first_token_s"] == [0.01, 0.02]
    assert columns["finish_s"] == [0.02, 0.03]


def test_11_fair_sharing_worked_by_hand():
    """Two stores of 16,000 bytes at 1 MB/s, the second half way through the first: 24 and 32 ms."""
    from tokencake.sim.clock import Clock, Priority
    from tokencake.sim.link import Link
    from tokencake.sim.transfer import Transfer

    clock = Clock()
    link = Link(clock, LinkConfig(d2h_gb_s=0.001, h2d_gb_s=0.001))
    ends = []
    transfers = [
        Transfer("d2h", 16_000, 1, "offload", i, lambda t: ends.append((t.subject, t.finish_ps / PS))) for i in range(2)
    ]
    clock.at(0, Priority.TRANSFER, link.start, transfers[0])
    clock.at(8 * 10**9, Priority.TRANSFER, link.start, transfers[1])
    while not link.idle or not ends:
        clock.step()
    assert ends == [(0, 0.024), (1, 0.032)]


def test_ample_memory_makes_the_pool_irrelevant():
    """With room for everything, a larger pool changes nothing."""
    base = SimConfig(EngineConfig(gpu_blocks=5000), LinearLatency(LinearCoefficients(1000, 10, 0, 0, 5, 1)), 1000)
    programs = [
        Program(f"p{i}", "app", i / 10, (LLMNode("c", (), "a", "a", (Piece("s", 64), Piece(f"x{i}", 50)), 40),))
        for i in range(20)
    ]
    larger = replace(base, engine=replace(base.engine, gpu_blocks=50_000))
    assert simulate(programs, base, Policy()).calls.columns == simulate(programs, larger, Policy()).calls.columns
