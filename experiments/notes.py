"""What a reader of a run's numbers must know: one line each, printed when the run ends."""

from collections.abc import Iterator, Mapping
from typing import Any

from tokencake.policies.answers import HOOKS
from tokencake.policies.api import Policy, overrides
from tokencake.policies.compose import Compose, parts_of
from tokencake.policies.guard import is_outside
from tokencake.policies.misspelt import misspelt_hooks
from tokencake.sim.config import SimConfig

_DRAWN = ("poisson", "gamma")
_RECORDED = {"not_as_recorded": "steps", "copies_not_as_recorded": "copies"}


def notes(
    policy: Policy, name: str, trace: Mapping[str, Any], sim: SimConfig, summary: Mapping[str, Any]
) -> Iterator[str]:
    """What is odd about a run.

    Args:
        policy: What decided.
        name: What it is called.
        trace: The `trace` section.
        sim: Configuration of the host.
        summary: Content of `summary.json`.
    """
    yield from _inert(policy, name, sim, summary)
    if isinstance(policy, Compose):
        yield from policy.advice
    if summary["programs"] == 1 and trace["source"] == "file" and trace["arrivals"] in _DRAWN:
        yield f"trace.arrivals={trace['arrivals']} moves the one program of the trace and has no other effect"
    for what, number in summary["outside_measured_range"].items():
        if number and what in _RECORDED:
            rule = "they took what the hardware profile says"
            yield f"{_RECORDED[what]} that are not those of the recording: {number}; {rule}"
        elif number:
            share = f"{number} of {summary['steps']} steps"
            yield f"{share} beyond what the hardware profile was measured for ({what}); extrapolated"


def _inert(policy: Policy, name: str, sim: SimConfig, summary: Mapping[str, Any]) -> Iterator[str]:
    """A policy that could not do what it is for."""
    for part in parts_of(policy):
        yield from misspelt_hooks(type(part))
    if is_outside(type(policy)) and not any(overrides(policy, hook) for hook in HOOKS):
        yield f"{name} overrides no hook ({', '.join(HOOKS)}), so this is stock vLLM"
    if sim.log_decisions and not any(overrides(policy, hook) for hook in HOOKS):
        yield f"{name} leaves every decision to the engine: the decision log holds preemptions only"
    copies = overrides(policy, "store") or policy.offloads or summary["events"].get("offload_without_tier")
    if copies and not sim.engine.cpu_blocks:
        yield f"{name} copies KV to the CPU tier, and there is none (engine.cpu_gib=0): nothing was copied"
