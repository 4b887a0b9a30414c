"""`python -m specexp.report`: what finished runs say, from their records alone. A command is a module with a `main(arguments)`.

Imports only the module of the command that was called; none of them needs torch.
"""

from __future__ import annotations

import sys
from importlib import import_module

from specexp.errors import UserError

COMMANDS = {
    "explain": "specexp.report.explain",
}


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(f"specexp.report: no command of that name; choose one of {', '.join(COMMANDS)}.")
    try:
        import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    except UserError as error:
        sys.exit(f"specexp.report: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
