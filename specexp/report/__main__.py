"""`python -m specexp.report`: what finished runs say, from their records alone. A command is a function of its arguments.

Imports only the module of the command that was called; none of them needs torch.
"""

from __future__ import annotations

import os
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
    "glossary": "specexp.report.glossary:main",
}


INTERRUPTED = 130  # what a shell says of a command that was interrupted


def main(arguments: list[str]) -> None:
    """Ends the process with a sentence and exit code 1 where the command cannot do what it was asked."""
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("table", arguments)
    try:
        module, _, function = COMMANDS[name].partition(":")
        getattr(import_module(module), function)(rest)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"specexp.report: {error}")
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's own flush finds no closed pipe
    except OSError as error:
        sys.exit(f"specexp.report: cannot read or write {error.filename} ({error.strerror}).")
    except KeyboardInterrupt:
        print("specexp.report: interrupted; every file is whole, as it was or as it was to be.", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main(sys.argv[1:])
