"""Configuration keys: as dotted names, and as words with units for tables and axes."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

HARDWARE, TRACE, EXPERIMENT = "hardware", "trace", "experiment"
"""Names for what was chosen as a whole: a profile, a file or generator, a set of overrides."""

# Words and unit. What is not here is called by the last part of its key, with the unit that the key ends in.
_NAMES = {
    "trace.qps": ("arrival rate", "programs/s"),
    "trace.programs_count": ("programs", ""),
    "workload.concurrency": ("programs at a time", ""),
    "engine.gpu_blocks": ("GPU KV memory", "blocks"),
    "engine.cpu_gib": ("CPU KV memory", "GiB"),
    "engine.cpu_blocks": ("CPU KV memory", "blocks"),
    "engine.block_size": ("block size", "tokens"),
    "engine.max_num_batched_tokens": ("token budget", "tokens"),
    "engine.max_num_seqs": ("running calls at most", ""),
    "engine.max_model_len": ("longest call", "tokens"),
    "link.d2h_gb_s": ("link to CPU", "GB/s"),
    "link.h2d_gb_s": ("link to GPU", "GB/s"),
}
_UNITS = {"_gb_s": "GB/s", "_gib": "GiB", "_us": "us", "_s": "s", "_tokens": "tokens", "_blocks": "blocks"}
_BARE = (HARDWARE, TRACE, EXPERIMENT, "host")  # values that need no key beside them


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


def title(key: str) -> str:
    """What an axis or a column says.

    >>> title("trace.qps"), title("workload.client_delay_s"), title("trace.rounds")
    ('arrival rate (programs/s)', 'client delay (s)', 'rounds')
    """
    words, unit = _named(key)
    return f"{words} ({unit})" if unit else words


def with_value(key: str, value: object) -> str:
    """What the title of a panel says.

    >>> with_value("trace.qps", 0.5), with_value("engine.gpu_blocks", 3049), with_value("trace.rounds", 2)
    ('arrival rate 0.5 programs/s', 'GPU KV memory 3,049 blocks', 'rounds 2')
    """
    words, unit = _named(key)
    number = f"{value:,}" if type(value) is int else as_typed(value)
    return f"{words} {number} {unit}".rstrip()


def in_label(key: str, value: str) -> str:
    """What a legend says of one setting: short, as it was typed.

    >>> in_label("engine.gpu_blocks", "1000"), in_label("hardware", "cpu-tiny")
    ('gpu_blocks=1000', 'cpu-tiny')
    """
    return value if key in _BARE else f"{key.rpartition('.')[2]}={value}"


def as_typed(value: object) -> str:
    """A configuration value as it is written on the command line.

    >>> as_typed(None), as_typed(True), as_typed(2.0), as_typed(0.1234567)
    ('null', 'true', '2', '0.1234567')
    """
    if value is None:
        return "null"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)  # no shorter than tells it from others
    return str(value).lower() if isinstance(value, bool) else str(value)


def shortened(values: Mapping[Any, object]) -> dict[Any, str]:
    """Values as typed; of paths what tells them apart.

    >>> shortened({0: "runs/a/mine.yaml", 1: "runs/b/mine.yaml", 2: "cpu-tiny"})
    {0: 'a/mine', 1: 'b/mine', 2: 'cpu-tiny'}
    """
    texts = {key: as_typed(value) for key, value in values.items()}
    distinct = set(texts.values())
    longest = max((len(PurePath(text).parts) for text in distinct), default=1)
    for parts in range(1, longest + 1):
        short = {text: _tail(text, parts) for text in distinct}
        if len(set(short.values())) == len(distinct):
            return {key: short[text] for key, text in texts.items()}
    return texts


def _tail(text: str, parts: int) -> str:
    """The last parts of a path, without the endings of a file; other texts as they are."""
    path = PurePath(text)
    if path.suffix not in (".yaml", ".yml", ".jsonl", ".gz", ".zst", ".csv") and len(path.parts) < 2:
        return text
    name = path.name
    for ending in (".gz", ".zst", ".jsonl", ".csv", ".yaml", ".yml"):
        name = name.removesuffix(ending)
    return str(PurePath(*path.parts[-parts:-1], name)) if name else text


def _named(key: str) -> tuple[str, str]:
    if key in _NAMES:
        return _NAMES[key]
    last = key.rpartition(".")[2]
    for ending, unit in _UNITS.items():
        if last.endswith(ending):
            return last.removesuffix(ending).replace("_", " "), unit
    return last.replace("_", " "), ""
