"""`tokencake policies`: what there is to choose from."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError, did_you_mean
from tokencake.policies import registry


def run(words: Sequence[str]) -> None:
    """List the policies, or describe one with its parameters.

    Raises:
        UsageError: there is no such policy.
    """
    parser = Parser(prog="tokencake policies", description="Lists the policies, or describes one.")
    parser.add_argument("name", nargs="?", help="a policy to describe")
    name = parser.parse_args(words).name
    if name is None:
        table = Table("policy", "what it does", box=None, pad_edge=False)
        for known in registry.names():
            table.add_row(known, registry.describe(known).summary)
        table.add_row("custom", "your own class: policy=custom policy.target=module:Class policy.params.x=1")
        Console().print(table)
        return
    if name not in registry.names():
        raise UsageError(f"unknown policy {name!r}; {did_you_mean(name, registry.names())}")
    info = registry.describe(name)
    print(f"{info.name}: {info.summary}")
    for param in info.params:
        print(f"  policy.{param.name}={param.default}  ({param.type}) {param.doc}")
