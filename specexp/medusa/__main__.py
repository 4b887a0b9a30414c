"""`specexp medusa`: trains Medusa heads for a decoder-only model, which stays as it is.

It learns from text files, .jsonl files or directories of them; without any, from the project's own training corpus, of which the
evaluation tasks are no part. A share of the texts is what the model itself writes behind their beginnings. All of them begin as prompts
do in decoding: with --prompt-format chat through the chat template, for heads that are used with dataset.prompt_format=chat.

The directory --out then holds the heads, with their accuracy by head and rank on texts that they did not learn from; specexp
method=medusa method.heads=DIR uses them. curve.jsonl there is the history of the training. The same command goes on from the checkpoint
in the directory.
With --measure HEADS nothing is trained: these heads are measured (published ones come without accuracies) and written with their
accuracies.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from specexp.cli.credentials import refuse_arguments
from specexp.errors import CommandParser, UserError, ending


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    class Layout(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
        """The description as it stands, and behind every option its default."""

    refuse_arguments(sys.argv[1:] if arguments is None else arguments)
    parser = CommandParser("specexp medusa", description=__doc__, formatter_class=Layout)
    add = parser.add_argument
    add("paths", nargs="*", type=Path, help="text files, .jsonl files, directories; none: the generated corpus")
    add("--target", required=True, help="a directory, a Hub id, or asset:NAME")
    add("--out", type=Path, required=True, help="directory of the heads, the checkpoint and the curve")
    add("--measure", metavar="HEADS", help="measure these heads (a directory, a Hub id) instead of training some")
    add("--heads", type=int, default=4, help="how many tokens are guessed behind the next one")
    add("--layers", type=int, default=1, help="residual blocks of each head")
    add("--documents", type=int, default=4000, help="how many texts at most")
    add("--length", type=int, default=512, help="longer files are read in parts of so many ids")
    add("--written", type=float, help="share of the texts that the target itself writes behind their beginnings (default 0.5; in chat 1)")
    add("--prompt-format", default="raw", choices=("raw", "chat"), help="chat: each text is what a user says, and the target answers")
    add("--chat-template", help="in chat: plain, or a Jinja file, in the place of the tokenizer's own template")
    add("--max-new-tokens", type=int, default=128, help="of what the target writes")
    add("--epochs", type=float, default=3.0, help="how often every text is read")
    add("--batch", type=int, default=16, help="texts in a step")
    add("--rate", type=float, default=1e-3, help="highest learning rate")
    add("--seed", type=int, default=0, help="of the order of texts and of what is generated")
    add("--key", default="text", help="the field of .jsonl lines that holds the text")
    add("--dtype", default="auto", help="of the target; heads learn in float32")
    add("--device", default="auto", help="auto, cpu, cuda, mps or npu")
    add("--trust-remote-code", action="store_true", help="run code that the target's repository brings")
    add("--allow-pickle", action="store_true", help="take the target's pickled weights where there are no others")
    add("--wandb", default="disabled", choices=("disabled", "auto", "online", "offline"), help="mirror the curve to Weights & Biases")
    return checked(parser.parse_args(arguments))


def checked(options: argparse.Namespace) -> argparse.Namespace:
    for name in ("heads", "layers", "documents", "length", "max_new_tokens", "epochs", "batch", "rate"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} does not fit; give more than 0.")
    chat = options.prompt_format == "chat"
    options.written = (1.0 if chat else 0.5) if options.written is None else options.written
    if chat and options.written != 1:
        raise UserError(f"--written {options.written} does not go with --prompt-format chat: the target writes every answer; leave it out.")
    if options.chat_template is not None and not chat:
        raise UserError(f"--chat-template {options.chat_template} goes with --prompt-format chat only; leave it out.")
    if not 0 <= options.written <= 1:
        raise UserError(f"--written {options.written} is no share; give 0 to 1.")
    return options


def main(arguments: list[str] | None = None) -> None:
    with ending("specexp medusa", "interrupted; the same command goes on where it stopped."):
        options = parse(arguments)
        from specexp.training.medusa import build  # brings torch, which a mistake in the options does not wait for

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        os.nice(19)
        build(options)


def cli() -> None:
    main()


if __name__ == "__main__":
    cli()
