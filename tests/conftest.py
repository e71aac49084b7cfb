"""Hypothesis profiles: dev (default), ci (derandomized), nightly; choose with HYPOTHESIS_PROFILE."""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **COMMON)
settings.register_profile("ci", max_examples=300, derandomize=True, **COMMON)
settings.register_profile("nightly", max_examples=5000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
