"""Times of a live run's steps and copies, for a simulation that replays them (`hardware.recorded=RUN`)."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tokencake.experiments.columns import COPIES
from tokencake.experiments.errors import UsageError
from tokencake.sim.config import to_ps
from tokencake.sim.latency.recorded import RecordedStep
from tokencake.sim.recorded_link import RecordedCopy

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


def read_copies(run: Path) -> list[RecordedCopy] | None:
    """The measured copies of a run directory, in the order in which they began; None if its copies were not measured.

    Raises:
        UsageError: the file cannot be read.
    """
    path = run / "copies.parquet"
    if not path.exists():
        return None
    try:
        columns = pq.read_table(path, columns=list(COPIES)).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"hardware.recorded={run}: cannot be read ({path.name}: {error})") from error
    took = [to_ps(seconds) for seconds in columns.pop("took_s")]
    return [RecordedCopy(*row) for row in zip(*columns.values(), took, strict=True)]
