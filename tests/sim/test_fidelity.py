"""The simulator against published measurements of vLLM: bounds that must hold, not targets tuned for."""

import pytest

from tokencake.experiments.fidelity import MEASURED, simulated

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("qps", sorted(MEASURED))
def test_code_writer_base_cell(qps):
    """Makespan and mean program latency within 3 %, on the mean of three seeds."""
    runs = [simulated(qps, seed) for seed in SEEDS]
    for name in ("makespan (s)", "mean program latency (s)"):
        mean = sum(run[name] for run in runs) / len(runs)
        assert mean == pytest.approx(MEASURED[qps][name], rel=0.03), name
