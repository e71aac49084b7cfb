"""The live host: same rows and decisions as the simulator's, real time on the clock, nothing left behind."""

import os
import signal
import time
from dataclasses import replace

import pytest
from live_replay import XS, calls_of, config, demo, play

from tokencake.engine.config import LiveConfig
from tokencake.engine.run import check_live, run_live
from tokencake.policies import registry
from tokencake.policies.api import Policy, Reserve, Trigger
from tokencake.sim.config import ConfigError, to_ps
from tokencake.sim.latency.recorded import RecordedLatency, RecordedStep
from tokencake.sim.latency.scatter import Scatter, ScatterLatency
from tokencake.sim.recorded_link import RecordedCopy
from tokencake.sim.run import simulate

POLICIES = [name for name in registry.names() if name != "custom"]


def recorded(result, base):
    columns = result.steps.columns
    names = ("prefill_tokens", "prefill_pairs", "prefill_calls", "decodes", "decode_context")
    durations = [to_ps(seconds) for seconds in columns["duration_s"]]
    return RecordedLatency(
        base, [RecordedStep(*row) for row in zip(*(columns[n] for n in names), durations, strict=True)]
    )


def recorded_copies(result):
    if result.copies is None:
        return None
    columns = result.copies.columns
    took = [to_ps(seconds) for seconds in columns.pop("took_s")]
    return [RecordedCopy(*row) for row in zip(*columns.values(), took, strict=True)]


@pytest.mark.parametrize("copies", ["link", "measured"])
@pytest.mark.parametrize(
    "policy",
    ["vllm", "vllm-priority", "autellix", "continuum", "vllm-offload", "kvflow", "random", "tokencake-upstream"],
)
def test_a_simulation_with_the_recorded_times_is_the_live_run(runtime, policy, copies):
    settings = replace(config(), log_decisions=True)
    chosen = LiveConfig(model="xs", copies=copies)
    live = run_live(demo(), settings, registry.create(policy, {}), chosen, runtime=runtime)
    assert live.summary["calls"] == calls_of(demo())
    step_by_step = replace(settings.engine, jumps=False)
    latency, moved = recorded(live, settings.latency), recorded_copies(live)
    again = replace(settings, engine=step_by_step, latency=latency, copies=moved)
    replayed = simulate(demo(), again, registry.create(policy, {}))
    outside = replayed.summary["outside_measured_range"]
    assert outside["not_as_recorded"] == outside.get("copies_not_as_recorded", 0) == 0
    for name in ("decisions", "calls", "programs", "transfers"):
        assert getattr(replayed, name).columns == getattr(live, name).columns, name
    assert policy == "vllm" or live.decisions.columns["time_s"], "it decided something"


def test_steps_are_recorded_as_they_were_measured(runtime):
    result = run_live(demo(), config(), Policy(), LiveConfig(model="xs"), runtime=runtime)
    columns = result.steps.columns
    assert len(columns["start_s"]) == result.summary["steps"]
    assert all(seconds > 0 for seconds in columns["duration_s"])
    # In warp time a step takes its CPU time.
    assert columns["duration_s"] == pytest.approx(columns["cpu_s"])
    expected = XS.constant_us + XS.per_decode_us * columns["decodes"][-1]
    expected += XS.per_context_token_us * columns["decode_context"][-1]
    assert not columns["prefill_calls"][-1]
    assert columns["expected_s"][-1] == pytest.approx(expected / 1e6)
    ends = [start + took for start, took in zip(columns["start_s"], columns["duration_s"], strict=True)]
    assert all(end <= start + 1e-9 for end, start in zip(ends, columns["start_s"][1:], strict=False))
    prefilled = sum(columns["prefill_tokens"])
    tokens = result.summary["prefill_tokens"]
    # A preempted call computes one token more than it had: the output that it had not read yet.
    assert 0 <= prefilled - tokens["computed"] - tokens["recomputed"] <= result.summary["preemptions"]


def test_wall_time_is_the_machines_and_tools_take_theirs(runtime):
    programs = demo(count=2, tool_scale=0.1)
    begin = time.perf_counter()
    result = run_live(programs, config(), Policy(), LiveConfig(model="xs", clock="wall"), runtime=runtime)
    took = time.perf_counter() - begin
    assert result.summary["makespan_s"] == pytest.approx(took, abs=0.25)
    assert sum(result.programs.columns["tool_s"]) > 0
    busy = sum(result.steps.columns["duration_s"])
    assert busy < result.summary["makespan_s"], "somebody slept"


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_left_behind(runtime, policy):
    settings = config(blocks=30)
    host = play(runtime, demo(count=4, seed=3), registry.create(policy, {}), settings)
    assert host.cpu.pinned == 0
    assert host.link.idle
    assert host.pool.free == settings.engine.gpu_blocks
    host.pool.check([])
    assert not host.placement.stalls
    assert not host.vllm.requests
    runner = runtime.core.model_executor.driver_worker.worker.model_runner
    assert not runner.requests
    assert runner.input_batch.num_reqs == 0


class Hoarder(Policy):
    """Reserves nearly everything for a type that never comes."""

    def place(self, view, trigger, subject):
        return (Reserve({"nobody": view.gpu.capacity - 2}),) if trigger is Trigger.STEP else ()


def test_a_small_pool_and_a_large_reserve_still_end(runtime):
    host = play(runtime, demo(count=3, seed=2), Hoarder(), config(blocks=26))
    assert len(host.metrics.programs) == 3
    assert host.metrics.counts["reserves_lifted"] > 0
    assert host.metrics.steps < 20_000


class Ponders(Policy):
    """Thinks for long whenever a call has ended."""

    thought = 0

    def place(self, view, trigger, subject):
        if trigger is Trigger.STALL:
            self.thought += 1
            begin = time.process_time()
            while time.process_time() - begin < 0.3:
                pass
        return ()


def test_what_is_done_when_a_call_ends_is_not_on_the_clock(runtime):
    policy = Ponders()
    result = run_live(demo(count=2), config(), policy, LiveConfig(model="xs"), runtime=runtime)
    assert policy.thought == result.summary["calls"] > 0
    assert max(result.steps.columns["duration_s"]) < 0.3


def test_an_interrupt_keeps_what_is_finished(runtime):
    def interrupt(done):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    programs = demo(count=6)
    result = run_live(programs, config(), Policy(), LiveConfig(model="xs"), runtime=runtime, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert result.summary["interrupted"] is True
    assert 2 <= result.summary["programs"] < 6
    assert result.summary["calls"] == len(result.calls.columns["call"]) > 0
    whole = run_live(programs, config(), Policy(), LiveConfig(model="xs"), runtime=runtime)
    assert whole.summary["programs"] == 6, "the engine is as good as new"
    assert "interrupted" not in whole.summary


def test_an_interrupt_during_the_last_step_ends_a_sweep_too(runtime):
    def interrupt(done):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    result = run_live(demo(count=2), config(), Policy(), LiveConfig(model="xs"), runtime=runtime, progress=interrupt)
    assert result.summary["programs"] == 2
    assert result.summary["interrupted"] is True


@pytest.mark.parametrize(
    ("change", "live", "said"),
    [
        ({"async_scheduling": True}, {}, "engine.async_scheduling must be false with host=live"),
        ({}, {"model": "s"}, "live.model=s has 4096 bytes of KV a token, the hardware profile's model 1024"),
        ({"max_model_len": 40_000}, {}, "engine.max_model_len must be <= 32768"),
        ({"version": "0.22"}, {}, "engine.version must be 0.32"),
    ],
)
def test_what_the_engine_does_not_have_is_refused(runtime, change, live, said):
    with pytest.raises(ConfigError, match=said):
        run_live(demo(), config(**change), Policy(), LiveConfig(**{"model": "xs"} | live))


@pytest.mark.parametrize(
    ("latency", "said"),
    [
        (lambda base: ScatterLatency(base, Scatter(0.1), 0), "hardware.jitter and hardware.drift need host=sim or"),
        (lambda base: RecordedLatency(base, []), "hardware.recorded needs host=sim or host=virtual"),
    ],
)
def test_step_times_that_are_not_the_engines_are_refused(latency, said):
    settings = config()
    with pytest.raises(ConfigError, match=said):
        check_live(replace(settings, latency=latency(settings.latency)), LiveConfig(model="xs"))


@pytest.mark.parametrize("name", ["clock", "copies"])
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=f"live.{name} must be one of .*, got nonsense"):
        LiveConfig(**{name: "nonsense"})


def test_measured_copies_take_time_and_the_links_take_its_own(runtime):
    policy = registry.create("vllm-offload", {})
    measured = run_live(demo(), config(blocks=28), policy, LiveConfig(model="xs"), runtime=runtime)
    settings = config(blocks=28)
    policy = registry.create("vllm-offload", {})
    emulated = run_live(demo(), settings, policy, LiveConfig(model="xs", copies="link"), runtime=runtime)
    assert measured.summary["h2d_bytes"] > 0 < emulated.summary["h2d_bytes"]
    columns = emulated.transfers.columns
    # 32 KiB a block at 0.5 GB/s, and 20 us a run.
    fastest = [blocks * 32768 / 0.5e9 + 20e-6 for blocks in columns["blocks"]]
    took = [end - start for start, end in zip(columns["start_s"], columns["finish_s"], strict=True)]
    assert all(seconds >= least - 1e-12 for seconds, least in zip(took, fastest, strict=True))
    assert any(seconds == pytest.approx(least) for seconds, least in zip(took, fastest, strict=True))
    columns = measured.transfers.columns
    assert all(end > start for start, end in zip(columns["start_s"], columns["finish_s"], strict=True))
