"""The timeline of a run that was ended before its programs were."""

from tokencake.experiments.timeline import build, tool_spans
from tokencake.policies.api import Policy
from tokencake.sim.config import EngineConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.generators.synthetic import Demo


def test_calls_of_unfinished_programs_are_shown():
    programs = list(Demo(programs_count=3, qps=1.0).programs())
    config = SimConfig(EngineConfig(2000), LinearLatency(LinearCoefficients(1000, 1, 0, 0, 1, 0)), 1000)
    result = simulate(programs, config, Policy())
    kept = result.programs.columns
    unfinished = kept["program"][-1]
    for column in kept.values():
        column.pop()
    calls, transfers, kv = result.calls.columns, result.transfers.columns, result.kv.columns
    spans = tool_spans(programs, kept, calls, timed=False)
    events = build(kept, calls, transfers, kv, spans)["traceEvents"]
    (process,) = [e for e in events if e["ph"] == "M" and e["args"].get("name") == f"{unfinished} (not finished)"]
    shown = [event["name"] for event in events if event["pid"] == process["pid"] and event.get("cat") == "llm"]
    expected = [c for p, c in zip(calls["program"], calls["call"], strict=True) if p == unfinished]
    assert sorted(shown) == sorted(expected) != []
