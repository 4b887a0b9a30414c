"""`specexp tables`: counts the bigram and the Katz trigram table of a tokenizer.

It counts text files, .jsonl files or directories of them; or, with --written MODEL, text that a model writes (for the trigram of
method=staged the draft model); or else the project's own training corpus: functions and articles as the small models saw them, without
the evaluation tasks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from specexp.cli.credentials import refuse_arguments
from specexp.errors import CommandParser, ending


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = CommandParser("specexp tables", description=__doc__, formatter_class=layout)
    parser.add_argument("paths", nargs="*", type=Path, help="text files, .jsonl files, directories; none: the generated corpus")
    parser.add_argument("--tokenizer", required=True, help="a directory, a Hub id, or asset:NAME")
    parser.add_argument("--out", type=Path, required=True, help="directory of NAME_bigram.safetensors and NAME_trigram.safetensors")
    parser.add_argument("--name", default="tables", help="first part of the files' names")
    parser.add_argument("--written", metavar="MODEL", help="count text that this model writes: a directory, a Hub id, or asset:NAME")
    parser.add_argument("--temperature", type=float, default=1.5, help="of that text")
    parser.add_argument("--key", default="text", help="the field of .jsonl lines that holds the text")
    parser.add_argument("--documents", type=int, default=40000, help="how many are generated or written")
    parser.add_argument("--seed", type=int, default=0, help="of what is generated or written")
    parser.add_argument("--min-count", type=int, default=2, help="drop bigrams and trigrams of the Katz table that occur less often")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    with ending("specexp tables"):
        refuse_arguments(sys.argv[1:] if arguments is None else arguments)
        options = parse(arguments)
        from specexp.training.tables import build  # brings torch, which a mistake in the options does not wait for

        for path in build(options):
            print(f"{path}  {path.stat().st_size} bytes")


def cli() -> None:
    main()


if __name__ == "__main__":
    cli()
