"""What must hold in a host after every plan (``docs/invariants.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.sim.calls import Status

if TYPE_CHECKING:
    from tokencake.sim.extents import Holding
    from tokencake.sim.host import Host


def verify(host: Host) -> None:
    """Check block conservation in both tiers, request conservation and the life cycle of calls.

    Raises:
        AssertionError: Something does not add up; the message has the whole equation.
    """
    host.pool.check(holdings(host))
    host.cpu.check()
    _verify_calls(host)


def holdings(host: Host) -> list[Holding]:
    """Everything that may hold GPU blocks."""
    scheduler = host.scheduler
    found = [call.holding for call in (*scheduler.running, *scheduler.loading, *scheduler.waiting)]
    found.append(scheduler.spare)
    found += [holding for _, holding in scheduler.deferred]
    for stall in host.placement.stalls.values():
        found += (stall.call.holding, stall.pin, stall.held, stall.source)
    return found


def _verify_calls(host: Host) -> None:
    scheduler = host.scheduler
    lists = {
        "waiting": (list(scheduler.waiting), (Status.WAITING, Status.PREEMPTED)),
        "loading": (scheduler.loading, (Status.LOADING, Status.LOADED)),
        "running": (scheduler.running, (Status.RUNNING,)),
    }
    listed: dict[str, str] = {}
    for name, (calls, legal) in lists.items():
        for call in calls:
            assert call.status in legal, f"{call!r} is {name}"
            assert call.id not in listed, f"{call!r} is {name} and {listed[call.id]}"
            listed[call.id] = name
            assert 0 <= call.known <= call.produced <= call.output, f"{call!r} produced {call.produced}"
            assert name != "waiting" or not call.holding.blocks, (
                f"{call!r} waits and holds {call.holding.blocks} blocks"
            )
    for call in scheduler.prefilling:
        assert listed.get(call.id) == "running", f"{call!r} computes its prompt and does not run"
    under_way = (Status.WAITING, Status.LOADING, Status.LOADED, Status.RUNNING, Status.PREEMPTED)
    for run in host.driver.programs.values():
        for call in run.calls.values():
            assert call.status not in under_way or call.id in listed, f"{call!r} is on no list"
