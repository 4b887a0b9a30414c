"""The command line of the report's commands. A mistake in it is one sentence, as every mistake is, and not argparse's usage."""

from __future__ import annotations

import argparse
from typing import NoReturn

from specexp.errors import UserError


class Parser(argparse.ArgumentParser):
    """command: "" for the table of runs. text: what the command's --help begins with."""

    def __init__(self, command: str, text: str | None, epilog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(f"python -m specexp.report {command}".strip(), description=text, epilog=epilog, formatter_class=layout)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help shows how it is called.")
