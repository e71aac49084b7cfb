"""`tokencake hardware`: the profiles there are, and new ones from a model's config."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError
from tokencake.sim.latency.build import SYSTEMS, build_profile
from tokencake.sim.latency.hardware import HardwareProfile
from tokencake.sim.latency.profiles import ProfileError, load_profile, profile_names


def run(words: Sequence[str]) -> None:
    """List the profiles, or build one; the name or file of a profile alone lists that one.

    Raises:
        UsageError: an unknown profile or device, an unusable model config, or an output that is there already.
    """
    parser = Parser(prog="tokencake hardware", description="Lists the hardware profiles, or builds one.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listed = actions.add_parser("list", help="show profiles: the shipped ones (the default), or those that are named")
    listed.add_argument("profiles", nargs="*", metavar="PROFILE", help="name of a shipped profile, or NAME.yaml")
    build = actions.add_parser("build", help="make a profile: measured kernels with tokencake[hardware], else roofline")
    build.add_argument("model", type=Path, help="folder with a Hugging Face config.json")
    build.add_argument("system", help=", ".join(SYSTEMS))
    build.add_argument("out", type=Path, help="profile to write, NAME.yaml; use it with hardware.profile=NAME.yaml")
    build.add_argument("--max-model-len", type=int, help="most tokens of a call (default: the model's own limit)")
    build.add_argument("--overwrite", action="store_true", help="replace the files if they are there")
    if not words or words[0].endswith((".yaml", ".yml")) or words[0] in profile_names():
        words = ["list", *words]
    chosen = parser.parse_args(words)
    try:
        _ACTIONS[chosen.action](chosen)
    except ProfileError as error:
        raise UsageError(str(error)) from error


def _list(chosen: Any) -> None:
    profiles = {name: load_profile(name) for name in chosen.profiles or profile_names()}
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("profile", "GPU blocks", "tokens", "step time"):
        table.add_column(title, no_wrap=True)
    table.add_column("what")
    for name, profile in profiles.items():
        table.add_row(name, *_memory(profile), profile.latency.kind, profile.description)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _build(chosen: Any) -> None:
    options = {"max_model_len": chosen.max_model_len, "overwrite": chosen.overwrite}
    profile = build_profile(chosen.model, chosen.system, chosen.out, **options)
    blocks, tokens = _memory(profile)
    memory = f"it leaves {tokens} tokens of KV on the GPU ({blocks})"
    print(f"{chosen.out}: {profile.description.rstrip('.')}; {memory}; use it with hardware.profile={chosen.out}")
    if profile.latency.kind == "roofline":
        rule = "measured kernels need pip install 'tokencake[hardware]'; then build again with --overwrite"
        print(f"tokencake hardware: {rule}", file=sys.stderr)


def _memory(profile: HardwareProfile) -> tuple[str, str]:
    """What the model leaves on the GPU: KV blocks of so many tokens, and tokens."""
    blocks, size = profile.usable_blocks, profile.engine.block_size
    return f"{blocks:,} x {size}", f"{blocks * size:,}"


_ACTIONS: Mapping[str, Callable[[Any], None]] = {"list": _list, "build": _build}
