"""Calibration: the fit finds known coefficients, a real engine is measured, and the profile can be simulated."""

import random
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tokencake.engine import install
from tokencake.engine.calibrate import MeasuredStep, TooShortError, calibrate, measure_link
from tokencake.engine.fit import fit_error, fit_linear
from tokencake.engine.load import Load
from tokencake.engine.shape import StepShape
from tokencake.experiments.cli import main
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features
from tokencake.sim.latency.profiles import load_profile

KNOWN = LinearCoefficients(1500.0, 40.0, 0.02, 300.0, 90.0, 0.25)


def shapes(count, seed):
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        chunks = tuple((rng.randint(1, 500), rng.randint(0, 2000)) for _ in range(rng.choice((0, 0, 1, 2))))
        decodes = rng.randint(0 if chunks else 1, 30)
        found.append(StepShape(chunks, decodes, decodes * rng.randint(10, 2000)))
    return found


def times_us(chosen, noise=0.0, seed=0):
    rng = random.Random(seed)
    model = LinearLatency(KNOWN)
    return [model.step_ps(*shape) / 1e6 * (1 + rng.uniform(-noise, noise)) for shape in chosen]


def test_the_fit_finds_the_coefficients_behind_exact_times():
    seen = shapes(300, seed=1)
    found = fit_linear(seen, times_us(seen))
    for name in LinearCoefficients.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(KNOWN, name), rel=1e-3)


def test_held_out_errors_are_those_of_the_noise_and_sums_are_better():
    seen, others = shapes(2000, seed=1), shapes(1000, seed=2)
    found = LinearLatency(fit_linear(seen, times_us(seen, noise=0.2, seed=3)))
    error = fit_error(found, others, times_us(others, noise=0.2, seed=4))
    assert error.steps == 1000
    assert 0.08 < error.step < 0.12, "the mean of |u|, u uniform on ±20 %, is 10 %"
    assert error.window < 0.03
    assert abs(error.total) < 0.01


def test_a_feature_that_never_appears_costs_nothing_and_nothing_is_negative():
    seen = [StepShape((), n, 100 * n) for n in range(1, 40)]
    found = fit_linear(seen, [1000.0 - 2 * n for n in range(1, 40)])
    assert (found.per_prefill_token_us, found.per_decode_us, found.per_context_token_us) == (0.0, 0.0, 0.0)


def test_no_coefficient_would_fit_better_as_another_that_is_not_negative():
    """The conditions of Karush, Kuhn and Tucker, at the weights of the fit, on a dozen steps that say little."""
    rng = random.Random(3)
    settled = 0
    for _ in range(60):
        seen = shapes(15, seed=rng.random())
        times = np.array([max(1000.0, time + rng.gauss(0, 60_000)) for time in times_us(seen)])
        solution = np.array(astuple(fit_linear(seen, times)))
        assert np.all(solution >= 0)
        inputs = np.array([features(*shape) for shape in seen], dtype=float)
        weights = 1 / np.maximum(inputs @ solution, times.min())
        slope = inputs.T @ (weights * (times - inputs @ solution)) / (inputs.T @ (weights * times) + 1e-9)
        settled += np.all(np.abs(slope[solution > 0]) < 0.02) and np.all(slope[solution == 0] < 0.02)
    assert settled >= 55, "of the others, the weights still change"


def test_the_load_stays_within_the_engine_and_comes_back():
    load = Load(1000, 8, 500, seed=5)
    made = [load.request() for _ in range(500)]
    assert all(len(prompt) >= 1 and len(prompt) + output <= 1000 for prompt, output in made)
    starts = {tuple(prompt[:16]) for prompt, _ in made}
    assert len(starts) < 400, "some continue an earlier one"
    levels = load.under_way()
    assert {next(levels) for _ in range(40 * 200)} == {1, 2, 4, 8}


def test_the_error_is_of_a_fit_to_one_half_and_the_coefficients_are_of_all(monkeypatch):
    seen = shapes(4000, seed=1)
    slower = [1.0 if (i // 40) % 2 == 0 else 1.2 for i in range(len(seen))]  # the half that is held out
    times = [time * factor for time, factor in zip(times_us(seen), slower, strict=True)]
    steps = [MeasuredStep(shape, 0.0, time, i // 40) for i, (shape, time) in enumerate(zip(seen, times, strict=True))]
    monkeypatch.setattr("tokencake.engine.calibrate.measure_steps", lambda *arguments, **more: steps)
    monkeypatch.setattr("tokencake.engine.calibrate.measure_link", lambda *arguments, **more: None)
    found = calibrate(None, seconds=5)
    assert found.error.total == pytest.approx(1 / 1.2 - 1, abs=0.01)
    fitted = LinearLatency(found.coefficients)
    assert sum(fitted.step_ps(*shape) / 1e6 for shape in seen) == pytest.approx(sum(times), rel=0.01)


def test_a_real_engine_is_measured(runtime):
    free = runtime.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    seen = []
    found = calibrate(runtime, seconds=5, seed=1, progress=seen.append)
    assert seen[-1] == len(found.steps) > 100
    assert sum(bool(step.shape.prefill) for step in found.steps) > 20
    assert found.coefficients.constant_us > 0
    assert found.link.d2h_gb_s > 0
    assert len(found.load_average) == 2
    assert runtime.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == free
    assert not runtime.scheduler.has_requests()


def test_too_little_time_is_said_and_the_engine_is_as_good_as_new(runtime):
    with pytest.raises(TooShortError, match=r"0 steps were measured after warming up, which is too few: 0 to fit"):
        calibrate(runtime, seconds=0)
    assert not runtime.scheduler.has_requests()


def test_copies_whose_time_says_nothing_of_their_size_are_too_little(runtime, monkeypatch):
    class Falls:
        """Every copy takes less time than the one before it."""

        left = 1_000_000

        def lap_ns(self):
            Falls.left -= 1000
            return Falls.left, Falls.left

    monkeypatch.setattr("tokencake.engine.calibrate.Stopwatch", Falls)
    with pytest.raises(TooShortError, match=r"copies of \d+ bytes took no longer than those of \d+"):
        measure_link(runtime)


def test_one_half_alone_is_too_few_steps(tmp_path, monkeypatch, capsys):
    if install.missing():
        pytest.skip(install.missing())
    from tokencake.engine import calibrate, runtime

    class Idle:
        on_cpu = True

        def close(self):
            pass

    steps = [MeasuredStep(StepShape(((64, 0),), 2, 100), 900.0, 900.0, 1) for _ in range(30)]
    monkeypatch.setattr(runtime, "Runtime", lambda *arguments, **more: Idle())
    monkeypatch.setattr(runtime, "close_shared", lambda: None)
    monkeypatch.setattr(calibrate, "measure_steps", lambda *arguments, **more: steps)
    assert main(["calibrate", str(tmp_path / "mine.yaml"), "--model=xs", "--seconds=5"]) == 2
    assert "--seconds 5: 30 steps were measured after warming up, which is too few: 0 to fit" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_writes_a_profile_that_the_simulator_reads(tmp_path, capsys):
    if install.missing():
        pytest.skip(install.missing())
    out = tmp_path / "mine.yaml"  # in a process of its own: vLLM has one engine in each
    command = [sys.executable, "-m", "tokencake.experiments.cli", "calibrate", str(out), "--model=xs", "--seconds=8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "held out" in done.stdout
    profile = load_profile(out)
    assert profile.model.name == "tiny-llama-xs"
    assert profile.latency_model().prefill_ps(512, 0) > profile.latency_model().decode_ps(1, 100) > 0
    written = yaml.safe_load(out.read_text())["calibration"]
    assert written["steps"] == pq.read_table(tmp_path / "mine.steps.parquet").num_rows
    assert (
        main(["run", f"hardware.profile={out}", "trace=demo", "trace.programs_count=3", f"out={tmp_path / 'r'}"]) == 0
    )
    assert main(["calibrate", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine.yml", "--seconds", "1"], "--seconds: must be from 5 to 86400, got 1"),
        (["mine.yml", "--seconds", "inf"], "--seconds: must be from 5 to 86400, got inf"),
        (["mine.yml", "--seconds", "nan"], "--seconds: must be from 5 to 86400, got nan"),
        (["mine.json"], "must end in .yaml"),
        (["/dev/null/mine.yaml"], "/dev/null is not a writable directory"),
        (["mine.yaml", "--model", "huge"], "neither one of"),
        (["mine.yaml", "--gpu-blocks", "0"], "--gpu-blocks: must be > 0"),
        (["mine.yaml", "--max-model-len", "99999"], "--max-model-len: must be from 64 to"),
    ],
)
def test_a_bad_word_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    if install.missing():
        pytest.skip(install.missing())
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
