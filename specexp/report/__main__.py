"""`specexp report`: what finished runs say, from their records alone. Each of its own commands is a function of its arguments.

Imports only the module of the command that was called; none of them needs torch.
"""

from __future__ import annotations

import sys
from importlib import import_module

from specexp.errors import UserError, ending, whole

COMMANDS = {
    "table": "specexp.report.tables:main",  # also without its name: specexp report DIR...
    "compare": "specexp.report.compare:main",
    "ablation": "specexp.report.papers:main",
    "tree": "specexp.report.explain:show_tree",
    "sync": "specexp.report.wandb_report:sync",
    "wandb": "specexp.report.wandb_report:main",
    "explain": "specexp.report.explain:main",
    "glossary": "specexp.report.glossary:main",
}


def main(arguments: list[str]) -> None:
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("table", arguments)
    module, _, function = COMMANDS[name].partition(":")
    with ending("specexp report", "interrupted; every file is whole, as it was or as it was to be."):
        for number, argument in enumerate(arguments, 1):
            whole(argument, f"argument {number} of the command line")
        try:
            getattr(import_module(module), function)(rest)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"cannot read or write {error.filename} ({error.strerror}).") from error


def cli() -> None:
    main(sys.argv[1:])


if __name__ == "__main__":
    cli()
