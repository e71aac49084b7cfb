"""What `tokencake calibrate` writes, without an engine that measures."""

import pyarrow as pa
import pytest
import yaml

from commands import files, refused
from tokencake.engine.calibrate import Calibration
from tokencake.engine.fit import FitError
from tokencake.experiments.cli import main
from tokencake.experiments.commands import calibrate
from tokencake.sim.latency.profiles import PROFILE_DIR, load_profile
from tokencake.sim.latency.scatter import Scatter

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.fixture
def measured(monkeypatch):
    """A calibration that has been made: the profile of cpu-tiny, and one step."""
    data = yaml.safe_load((PROFILE_DIR / "cpu-tiny.yaml").read_text())
    monkeypatch.setattr(calibrate.install, "require", lambda: None)
    for name, value in {
        "find_model": None,
        "_limits": None,
        "_measure": None,
        "_profile": data,
        "_steps": pa.table({"duration_s": [0.1]}),
        "_report": None,
    }.items():
        monkeypatch.setattr(calibrate, name, lambda *_, value=value, **__: value)


def test_a_profile_and_its_steps_are_replaced_together_or_not_at_all(measured, monkeypatch, tmp_path, capsys):
    assert main(["calibrate", "new/mine.yaml"]) == 0
    before = files(tmp_path)
    assert set(before) == {"new/mine.yaml", "new/mine.steps.parquet"}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibrate, "_steps", lambda _: pa.table({"duration_s": [0.2, 0.3]}))
    monkeypatch.setattr(calibrate.yaml, "safe_dump", full)
    assert "No space left on device" in refused(capsys, "calibrate", "new/mine.yaml", "--overwrite")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("scatter", "said"),
    [
        (Scatter(0.1234, 0.1, 12.5), "hardware.jitter=0.1234 hardware.drift=0.1 hardware.drift_s=12.5"),
        (Scatter(0.1234), "hardware.jitter=0.1234 (no drift; it takes 10 s of steps to see one)"),
        (Scatter(), "they did not (no drift; it takes 10 s of steps to see one)"),
    ],
)
def test_how_steps_scatter_is_said_in_words_that_a_run_takes(scatter, said, capsys, tmp_path):
    profile = load_profile("cpu-tiny")
    found = Calibration(
        profile.latency.params, profile.link, FitError(9, 0.1, 0.1, 0.0), scatter, (), "cpu", (0.1, 0.2)
    )
    calibrate._report(tmp_path / "p.yaml", tmp_path / "p.parquet", profile, found)
    last = capsys.readouterr().out.splitlines()[-1].strip()
    assert last == f"to let simulated steps scatter as these did: {said}"
    words = [word for word in said.split() if word.startswith("hardware.")]
    assert main(["run", "+experiment=tiny", "trace=demo", "trace.programs_count=2", *words, "out=run"]) == 0
