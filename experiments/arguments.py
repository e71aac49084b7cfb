"""An argument parser whose errors are one line."""

import argparse
from typing import NoReturn

from tokencake.experiments.errors import UsageError


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that raises instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message} (try: {self.prog} --help)")
