"""`tokencake policies`: what there is to choose from."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError
from tokencake.policies import registry
from tokencake.policies.pages import pages
from tokencake.policies.params import PolicyError, Required

_OWN = "policy=my_module:MyPolicy policy.x=1"


def run(words: Sequence[str]) -> None:
    """List the policies, describe one with its parameters, or write their pages.

    Raises:
        UsageError: there is no such policy, or the pages cannot be written.
    """
    parser = Parser(prog="tokencake policies", description="Lists the policies, or describes one.")
    parser.add_argument("name", nargs="?", help="a policy to describe: one of the list, or my_module:MyPolicy")
    parser.add_argument("--pages", metavar="FOLDER", help="write one Markdown page a policy into a folder")
    options = parser.parse_args(words)
    if options.pages is not None:
        _write_pages(Path(options.pages))
        return
    name = options.name
    if name is None:
        table = Table("policy", "what it does", box=None, pad_edge=False)
        for known in registry.names():
            table.add_row(known, _plain(registry.describe(known).summary))
        table.add_row("module:Class", f"your own class (docs/policy-howto.md): {_OWN}")
        table.add_row(
            registry.CUSTOM, "the same in other words: policy=custom policy.target=my_module:MyPolicy policy.params.x=1"
        )
        table.add_row(
            "compose", "decision points of several: policy=compose policy.order=autellix policy.place=continuum"
        )
        Console().print(table)
        return
    try:
        info = registry.describe(name)
    except PolicyError as error:
        raise UsageError(str(error)) from error
    print(f"{info.name}: {_plain(info.summary)}")
    for param in info.params:
        print(f"  policy.{param.name}={_value(param.default)}  ({param.type}) {_plain(param.doc)}".rstrip())


def _value(default: object) -> str:
    """A default as it is written on the command line."""
    if default is Required:
        return "???"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _plain(text: str) -> str:
    return text.replace("``", "")


def _write_pages(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--pages {folder}: {error.strerror}") from error
    print(f"{len(pages())} pages -> {folder}")
