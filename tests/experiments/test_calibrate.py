"""What `tokencake calibrate` writes, without an engine that measures."""

import pyarrow as pa
import pytest
import yaml

from commands import files, refused
from tokencake.experiments.cli import main
from tokencake.experiments.commands import calibrate
from tokencake.sim.latency.profiles import PROFILE_DIR

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
