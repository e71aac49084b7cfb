"""Arguments of the commands and programs, whose errors are one line."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from tokencake.experiments.errors import UsageError, one_line


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that raises instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message} (try: {self.prog} --help)")


def exit_code(program: Callable[[], None]) -> int:
    """Run a program of `python -m`.

    Returns:
        0, or 2 after an error of the user, which is one line on stderr.
    """
    try:
        program()
    except UsageError as error:
        print(one_line(str(error)), file=sys.stderr)
        return 2
    return 0
