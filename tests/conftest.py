"""Hypothesis profiles (HYPOTHESIS_PROFILE: dev, ci derandomized, nightly), and what several folders of tests share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **COMMON)
settings.register_profile("ci", max_examples=300, derandomize=True, **COMMON)
settings.register_profile("nightly", max_examples=5000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def recorded():
    """The folder of recorded traces (TOKENCAKE_SHARED, by default ../shared beside the repository)."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    path = Path(os.environ.get("TOKENCAKE_SHARED", default)) / "traces"
    if not path.is_dir():
        pytest.skip(f"recorded traces are not at {path}; set TOKENCAKE_SHARED")
    return path
