"""Measures what steps and copies cost on this machine.

Step times are the process's CPU time: the engine computes in one thread, and on a machine that does
other things its wall time says more about those than about the engine. Both are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Any

import numpy as np

from tokencake.engine.copies import KvCopies
from tokencake.engine.fit import FitError, fit_error, fit_linear, fit_scatter
from tokencake.engine.load import Load
from tokencake.engine.requests import make_request
from tokencake.engine.runtime import Runtime, Stopwatch
from tokencake.engine.shape import StepShape, step_shape
from tokencake.sim.latency.hardware import LinkRates
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features
from tokencake.sim.latency.scatter import Scatter


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step of the engine: scheduling, forward pass and processing of its outputs.

    Attributes:
        shape: What was computed.
        wall_us: Wall time in microseconds.
        cpu_us: CPU time of the process meanwhile.
        episode: Which stretch of constant load it is from.
    """

    shape: StepShape
    wall_us: float
    cpu_us: float
    episode: int


class TooShortError(ValueError):
    """Too little was measured to say what a step or a copy costs."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a machine was found to cost.

    Attributes:
        coefficients: Of a step; fitted to all steps.
        link: Of copies between the tiers.
        error: Of a fit to half of the steps, on the other half.
        scatter: Of all steps around the fit to all.
        steps: All measured steps.
        clock: Which time the fit is of.
        load_average: Of the machine, before and after.
    """

    coefficients: LinearCoefficients
    link: LinkRates
    error: FitError
    scatter: Scatter
    steps: tuple[MeasuredStep, ...]
    clock: str
    load_average: tuple[float, float]


def calibrate(
    runtime: Runtime,
    *,
    seconds: float,
    seed: int = 0,
    clock: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Measure for about ``seconds``, fit one half of the steps, judge that by the other, then fit all of them.

    So the error is of a fit to half as many steps as the one that is returned, and promises rather too little.

    Args:
        runtime: An idle engine with vLLM's own scheduler.
        seconds: Time for steps; copies take a few seconds more.
        seed: Of the workload.
        clock: ``cpu`` or ``wall``.
        progress: Called with the number of steps measured.

    Raises:
        TooShortError: There was no time for both halves, or to see what a copy costs.
    """
    before = os.getloadavg()[0]
    steps = measure_steps(runtime, seconds=seconds, seed=seed, progress=progress)
    fitted, held_out = halves(steps)
    link = measure_link(runtime, clock=clock)
    load = (before, os.getloadavg()[0])

    def measured(chosen: Sequence[MeasuredStep]) -> tuple[list[StepShape], list[float]]:
        times = [step.cpu_us if clock == "cpu" else step.wall_us for step in chosen]
        return [step.shape for step in chosen], times

    error = fit_error(LinearLatency(fit_linear(*measured(fitted))), *measured(held_out))
    coefficients = fit_linear(*measured(steps))
    scatter = fit_scatter(LinearLatency(coefficients), *measured(steps))
    return Calibration(coefficients, link, error, scatter, tuple(steps), clock, load)


def halves(steps: Sequence[MeasuredStep]) -> tuple[list[MeasuredStep], list[MeasuredStep]]:
    """Steps to fit, and steps to judge the fit by: stretches of constant load, in turn.

    Raises:
        TooShortError: There is nothing to judge by, or nothing that shows what a prefill or a decode costs.
    """
    fitted = [step for step in steps if step.episode % 2 == 0]
    held_out = [step for step in steps if step.episode % 2]
    prefills, decodes = (sum(bool(step.shape[i]) for step in fitted) for i in (0, 1))
    if not (prefills and decodes and held_out):
        raise TooShortError(
            f"{len(steps)} steps were measured after warming up, which is too few: {len(fitted)} to fit"
            f" ({prefills} with prefills, {decodes} with decodes), {len(held_out)} to judge the fit by"
        )
    return fitted, held_out


def measure_steps(
    runtime: Runtime, *, seconds: float, seed: int = 0, progress: Callable[[int], None] | None = None
) -> list[MeasuredStep]:
    """Run an invented workload and time every step of it."""
    limits, scheduler = runtime.limits, runtime.scheduler
    longest = min(limits.max_model_len, (limits.blocks - 1) * limits.block_size)
    load = Load(longest, limits.max_num_seqs, runtime.model.shape.vocab, seed)
    steps: list[MeasuredStep] = []
    made = 0
    end_ns = Stopwatch.wall_ns() + round(seconds * 1e9)
    for number, wanted in enumerate(load.under_way()):
        while scheduler.get_num_unfinished_requests() < wanted:
            prompt, output = load.request()
            scheduler.add_request(make_request(f"load-{made}", prompt, output, runtime.core.request_block_hasher))
            made += 1
        watch = Stopwatch()
        scheduled = scheduler.schedule()
        shape = step_shape(scheduled, scheduler.requests)
        scheduler.update_from_output(scheduled, runtime.execute(scheduled))
        wall, cpu = watch.lap_ns()
        if number >= Load.EPISODE:  # the first ones warm up
            steps.append(MeasuredStep(shape, wall / 1e3, cpu / 1e3, number // Load.EPISODE))
        if progress is not None:
            progress(len(steps))
        if Stopwatch.wall_ns() > end_ns:
            break
    scheduler.finish_requests(list(scheduler.requests), _aborted())
    runtime.execute(scheduler.schedule())
    return steps


def _aborted() -> Any:
    from vllm.v1.request import RequestStatus

    return RequestStatus.FINISHED_ABORTED


def rows(steps: Sequence[MeasuredStep]) -> dict[str, list[Any]]:
    """Measured steps as columns: what `tokencake.sim.latency.linear.features` says of them, and their times."""
    names = ("prefill_tokens", "prefill_pairs", "prefill_calls", "decodes", "decode_context")
    shapes = [features(*step.shape)[1:] for step in steps]
    columns: dict[str, list[Any]] = {name: [shape[i] for shape in shapes] for i, name in enumerate(names)}
    return columns | {name: [getattr(step, name) for step in steps] for name in ("episode", "wall_us", "cpu_us")}


def measure_link(runtime: Runtime, *, clock: str = "cpu", repeats: int = 7, seed: int = 0) -> LinkRates:
    """Time copies of scattered blocks both ways; the fixed cost is the dearer direction's.

    A copy of ``n`` blocks takes ``fixed + n * block bytes / bandwidth``; each size counts with the
    median of its repeats. Blocks are overwritten, so nothing may be cached that is still wanted.
    ``clock`` is ``cpu`` or ``wall``, as a run has it on its clock.

    Raises:
        TooShortError: Copies of many blocks took no longer than those of few.
    """
    which = ("wall", "cpu").index(clock)
    copies = KvCopies(runtime.kv_tensors)
    random = Random(seed)
    most = min(runtime.limits.blocks - 1, 256)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= most]
    blocks = list(range(1, runtime.limits.blocks))
    times: dict[str, list[float]] = {"d2h": [], "h2d": []}
    for size in sizes:
        samples: dict[str, list[int]] = {"d2h": [], "h2d": []}
        for repeat in range(repeats + 1):
            chosen, slots = random.sample(blocks, size), random.sample(range(2 * most), size)
            watch = Stopwatch()
            copies.store(chosen, slots)
            stored = watch.lap_ns()[which]
            copies.load(slots, chosen)
            loaded = watch.lap_ns()[which]
            if repeat:  # the first one touches new memory
                samples["d2h"].append(stored)
                samples["h2d"].append(loaded)
        for way, values in samples.items():
            times[way].append(median(values) / 1e3)
    size_bytes = np.array(sizes) * copies.block_bytes
    fits = {way: _line(size_bytes, np.array(values)) for way, values in times.items()}
    (d2h, fixed_d2h), (h2d, fixed_h2d) = fits["d2h"], fits["h2d"]
    return LinkRates(d2h, h2d, float(f"{max(fixed_d2h, fixed_h2d):.3g}"))


def _line(size_bytes: Any, times_us: Any) -> tuple[float, float]:
    """Bandwidth in 1e9 bytes/s and fixed cost in microseconds, by least squares on relative errors.

    Raises:
        TooShortError: Nothing says what a byte costs.
    """
    weights = 1 / times_us
    inputs = np.stack([size_bytes * weights, weights], axis=1)
    (per_byte, fixed), *_ = np.linalg.lstsq(inputs, np.ones(len(times_us)), rcond=None)
    if per_byte <= 0:
        raise TooShortError(f"copies of {size_bytes[-1]} bytes took no longer than those of {size_bytes[0]}")
    return float(f"{1e-3 / per_byte:.3g}"), max(0.0, float(fixed))
