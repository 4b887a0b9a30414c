"""`specexp chat`: prompts at a terminal, from a pipe or from a script, decoded by several methods of one pair.

This module reads the command line and the configuration; what a typed line does is in commands.py and session.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from specexp.cli.jobs import attempted, composed, configured, launch, overrides
from specexp.errors import CommandParser, UserError, decoded, ending, installed

MANUAL = """\
Decode what you type with the target alone and with methods beside it: text coloured by origin, acceptance, tokens/s, speedup.

specexp chat                                   the small pair that ships; /help lists the commands of the console
specexp chat model_pair=qwen25_1b5_0b5         a pair whose tokenizer has a chat template; /chat switches it off
specexp chat method=csd max_new_tokens=200     any settings of `specexp run`
specexp chat --script FILE                     reads commands and prompts from a file, one a line, and ends at the first mistake
printf '/length 40\\ndef add(a, b):\\n' | specexp chat

A tokenizer without a chat template can be given one: chat_template=plain or chat_template=FILE. history=null keeps no history.
--cfg job shows the whole configuration.
"""
script: tuple[list[str], str] | None = None  # lines and name, from the command line; Hydra does not know this option


@configured("chat")
def main(config: DictConfig) -> None:
    def work(build: Callable) -> None:
        installed("chat", "prompt_toolkit")
        from specexp.chat.session import Session, from_command_line
        from specexp.chat.terminal import start
        from specexp.cli.check import check
        from specexp.models.loading import set_threads

        check(config, overrides())
        set_threads(config.threads)
        settings = from_command_line(overrides(), config.method.name, config.max_new_tokens, config.seed)
        session = Session(settings, partial(composed, "chat"), build)
        session.adopt(replace(settings, chat=session.has_template))
        start(session, script, config.history)

    attempted(work, "interrupted.")



def cli() -> None:
    global script
    parser = CommandParser("specexp chat", add_help=False, allow_abbrev=False)
    parser.add_argument("--script", type=Path)
    with ending("specexp chat"):
        options, sys.argv[1:] = parser.parse_known_args()
        file, script = options.script, None
        if file is not None and not file.is_file():
            raise UserError(f"--script {file} is no file; name one with a command or a prompt on each line.")
        if file is not None:
            script = decoded(file.read_bytes(), f"--script {file}").split("\n"), str(file)
    launch(main, lambda: MANUAL, "chat")


if __name__ == "__main__":
    cli()
