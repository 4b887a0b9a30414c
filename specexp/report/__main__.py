"""`python -m specexp.report`: what finished runs say, from their records alone. A command is a function of its arguments.

Imports only the module of the command that was called; none of them needs torch.
"""

from __future__ import annotations

import sys
from importlib import import_module

from specexp.errors import UserError

COMMANDS = {
    "table": "specexp.report.tables:main",  # also without its name: python -m specexp.report DIR...
    "compare": "specexp.report.compare:main",
    "ablation": "specexp.report.papers:main",
    "tree": "specexp.report.explain:show_tree",
    "sync": "specexp.report.wandb_report:sync",
    "wandb": "specexp.report.wandb_report:main",
    "explain": "specexp.report.explain:main",
}


def main(arguments: list[str]) -> None:
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("table", arguments)
    try:
        module, _, function = COMMANDS[name].partition(":")
        getattr(import_module(module), function)(rest)
    except UserError as error:
        sys.exit(f"specexp.report: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
