"""`python -m specexp.report`: what finished runs say, from their records alone. A command is a module with a `main(arguments)`.

Imports only the module of the command that was called; none of them needs torch.
"""

from __future__ import annotations

import sys
from importlib import import_module

from specexp.errors import UserError

COMMANDS = {
    "table": "specexp.report.tables",  # also without its name: python -m specexp.report DIR...
    "compare": "specexp.report.compare",
    "ablation": "specexp.report.ablation",
    "tree": "specexp.report.tree",
    "sync": "specexp.report.sync",
    "wandb": "specexp.report.wandb_report",
    "explain": "specexp.report.explain",
}


def main(arguments: list[str]) -> None:
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("table", arguments)
    try:
        import_module(COMMANDS[name]).main(rest)
    except UserError as error:
        sys.exit(f"specexp.report: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
