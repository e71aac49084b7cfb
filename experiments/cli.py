"""The command `tokencake`: one entry, subcommands imported when they are used, one line for every user error."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from tokencake import __version__
from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import one_line
from tokencake.policies.hints import did_you_mean

_COMMANDS = {
    "run": ("tokencake.experiments.app", "simulate one policy on one trace, or a sweep (-m); a Hydra application"),
    "plot": ("tokencake.experiments.commands.plot", "figures and a table from run or sweep directories"),
    "compare": (
        "tokencake.experiments.commands.compare",
        "predicted against measured: simulator and engine, or run and run",
    ),
    "diff": ("tokencake.experiments.commands.diff", "the first decision in which two runs differ"),
    "trace": ("tokencake.experiments.commands.trace", "import, generate, inspect or validate a trace"),
    "policies": ("tokencake.experiments.commands.policies", "list the policies, or describe one"),
    "hardware": ("tokencake.experiments.commands.hardware", "list the hardware profiles, or build one"),
    "calibrate": (
        "tokencake.experiments.commands.calibrate",
        "measure a model on this machine into a hardware profile",
    ),
}
_USER_ERROR = 2
_DEBUG = "--debug"


def parser() -> Parser:
    """The parser of the first word; every command parses the rest itself."""
    commands = "\n".join(f"  {name:10} {text}" for name, (_, text) in _COMMANDS.items())
    main_parser = Parser(
        prog="tokencake",
        description="Compare KV-cache scheduling policies for LLM agents.",
        epilog=f"commands:\n{commands}\n\n`tokencake COMMAND --help` says more about one.\n"
        f"{_DEBUG}, anywhere: where an error comes from, as a traceback.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main_parser.add_argument("--version", action="version", version=f"tokencake {__version__}")
    main_parser.add_argument("command", type=_command, metavar="COMMAND")
    main_parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...")
    return main_parser


def _command(word: str) -> str:
    if word not in _COMMANDS:
        raise argparse.ArgumentTypeError(f"unknown command {word!r}; {did_you_mean(word, _COMMANDS)}")
    return word


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, or 2 after an error of the user, which is one line on stderr, or 130 after Ctrl-C. Errors of ours keep their
        traceback, and so do all with ``--debug``.

    Raises:
        SystemExit: with status 1, as the answer of a command: no program finished (``run``), runs differ (``diff``).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = _DEBUG in words
    try:
        arguments = parser().parse_args([word for word in words if word != _DEBUG])
        command: Callable[[Sequence[str]], None] = import_module(_COMMANDS[arguments.command][0]).run
        command(arguments.words)
    except BrokenPipeError:  # `tokencake ... | head` is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        print("; ".join(("tokencake: interrupted", *map(str, stop.args))), file=sys.stderr)
        return 130
    except _user_errors() as error:
        if debug:
            traceback.print_exception(error)
        print(f"tokencake: {one_line(str(error))}", file=sys.stderr)
        return _USER_ERROR
    return 0


def _user_errors() -> tuple[type[Exception], ...]:
    """What the layers below raise for a user's mistake."""
    from tokencake.experiments.errors import UsageError
    from tokencake.traces.errors import BadInput

    return (UsageError, BadInput)


if __name__ == "__main__":
    sys.exit(main())
