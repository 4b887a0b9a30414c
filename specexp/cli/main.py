"""The front door: `specexp COMMAND ...` runs one of the commands; without the name of one it is the run.

Imports nothing of a command before it is known which one is called, so that --help and a wrong word are answered at once.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path

from specexp.cli.manual import COMMANDS, manual
from specexp.cli.messages import unknown_command
from specexp.cli.plugins import conf_directory, conf_folders, config_dirs
from specexp.errors import UserError, ending

HELP = {"-h", "--help"}
COMPLETION = {"-sc", "--shell_completion"}  # with one of these the shell asks for what could follow the line in COMP_LINE


def cli() -> None:
    """The console script."""
    if COMPLETION & set(sys.argv) and "COMP_LINE" in os.environ and not _complete(os.environ["COMP_LINE"]):
        return
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    command = word if word in COMMANDS else "run"
    with ending("specexp"):
        if word != command and re.fullmatch(r"[^\W\d][\w-]*", word):
            raise UserError(unknown_command(word))
        if command == "run" and HELP & set(sys.argv):
            print(manual(conf_folders()))
            return
    if word == command:
        del sys.argv[1]
    import_module(COMMANDS[command][0]).cli()


def _complete(line: str) -> bool:
    """Print the commands that fit what is being typed. Whether Hydra is to be asked too, as of a call of the command on the line.

    Nothing is said of commands that no configuration belongs to: for their arguments the shell itself offers files.
    """
    program, *typed = line.split(" ")
    if len(typed) == 1:
        print("".join(f"{name}\n" for name in COMMANDS if name.startswith(typed[0])), end="")
    command = typed[0] if typed and typed[0] in COMMANDS else "run"
    if len(typed) > 1 and typed[0] == command:
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
    sys.argv += [f"--config-dir={folder}" for folder in config_dirs(typed)[:1]]
    sys.argv.insert(1, command)
    return command == "run" or (Path(conf_directory()) / f"{command}.yaml").is_file()


if __name__ == "__main__":
    cli()
