"""Step times of a live run, for a simulation that replays them (`hardware.recorded=RUN`)."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tokencake.experiments.errors import UsageError
from tokencake.sim.config import to_ps
from tokencake.sim.latency.recorded import RecordedStep

_SHAPE = ("prefill_tokens", "prefill_pairs", "prefill_calls", "decodes", "decode_context")


def read_steps(run: Path) -> list[RecordedStep]:
    """The measured steps of a run directory, in order.

    Raises:
        UsageError: it holds none.
    """
    path = run / "steps.parquet"
    try:
        columns = pq.read_table(path, columns=[*_SHAPE, "duration_s"]).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"hardware.recorded={run}: no measured steps of a live run there ({path.name})") from error
    durations = [to_ps(duration) for duration in columns.pop("duration_s")]
    return [RecordedStep(*row) for row in zip(*columns.values(), durations, strict=True)]
