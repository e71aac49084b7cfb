"""The simulator's front door."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from tokencake.policies.api import Policy
from tokencake.sim.config import SimConfig
from tokencake.sim.host import Host
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.records import RunResult
from tokencake.sim.summary import run_result
from tokencake.traces.schema import Program

_T = TypeVar("_T")


COMPILED: Final = not str(sys.modules[Host.__module__].__file__).endswith(".py")
"""Whether the loop runs as mypyc compiled it (``docs/speed.md``)."""


def simulate(
    programs: Iterable[Program],
    config: SimConfig,
    policy: Policy,
    *,
    progress: Callable[[int], None] | None = None,
) -> RunResult:
    """Replay programs under a policy and return what happened.

    Args:
        programs: Programs in order of arrival. Read lazily, and twice (so it must be re-iterable)
            if the policy's information level is ``CLASS_MEAN``.
        config: Engine, hardware and replay.
        policy: A fresh policy object; it is the only thing that is mutated.
        progress: Called with the number of programs done.

    Returns:
        Rows and totals; nothing is written.

    Raises:
        ConfigError: The programs are not in order of arrival, or a name comes twice.
        StuckError: The policy leaves calls waiting for ever.
    """
    knowledge = Knowledge.of(policy.info, programs)
    host = Host(config, policy, iter(programs), knowledge)
    with _rarely_collecting():
        result, _ = timed(host, lambda: host.run(progress))
    return result


def timed(host: Host, loop: Callable[[], _T]) -> tuple[RunResult, _T]:
    """Let a host run, and return its result, with what this machine spent on it, and what the loop returned.

    Args:
        host: The host.
        loop: Runs it; only this is timed.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    returned = loop()
    timing: dict[str, Any] = {"loop_cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    timing["compiled"] = COMPILED
    result = run_result(host, timing)
    timing["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result, returned


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    """Let the garbage collector look seldom, and only at what a run makes.

    Nearly everything a run makes is freed by reference counts or kept as a result row; looking for
    cycles every 700 objects costs a tenth of the time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
