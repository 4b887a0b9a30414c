"""Builds the bigram and the Katz trigram table of a tokenizer: `python -m specexp.tables --tokenizer NAME --out DIR`.

From text files, .jsonl files or directories of them; or, with `--written MODEL`, from text that a model writes (its draft's, for the
trigram of method=staged); or else from the project's own training corpus (functions and articles as the tiny models saw them, evaluation
tasks left out). Wires rooms together; the counting and the tables are elsewhere.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from specexp.errors import UserError

EVERY = 2000  # documents between two lines of progress

Encode = Callable[[list[str]], list[int]]  # the pieces of a document, tokenised apart -> its ids


def generated(options: argparse.Namespace, encode: Encode) -> Iterator[list[int]]:
    """Documents of the corpus generator, one article to three tasks; functions of (seed, number) alone."""
    from specexp.training.corpus import article_document, function_document

    rng = random.Random(f"{options.seed}/tables")
    for number in range(options.documents):
        yield encode(article_document(rng) if number % 4 == 3 else function_document(rng, 1))


def files(options: argparse.Namespace, encode: Encode) -> Iterator[list[int]]:
    """Each text file, or each line of a .jsonl file, is one document."""
    from specexp.datasets.files import texts

    return (encode([text]) for text in texts(options.paths, options.key))


def encoder(tokenizer) -> Encode:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return lambda pieces: [token for ids in tokenizer(pieces, add_special_tokens=False)["input_ids"] for token in ids] + end


def watched(documents: Iterator[list[int]]) -> Iterator[list[int]]:
    tokens, number = 0, 0
    for number, document in enumerate(documents, 1):
        tokens += len(document)
        if number % EVERY == 0:
            print(f"{number} documents, {tokens} tokens", file=sys.stderr, flush=True)
        yield document
    if not tokens:
        from specexp.datasets.files import TEXT_SUFFIXES

        raise UserError(f"there is no text to count; give files ending in {', '.join(TEXT_SUFFIXES)}.")


def documents(options: argparse.Namespace, tokenizer) -> Iterator[list[int]]:
    """From the one source there is."""
    from specexp.training.texts import sampled_texts

    if options.paths and options.written:
        raise UserError(f"--written {options.written} and {options.paths[0]} are two sources; give one of them.")
    if options.written:
        return sampled_texts(options.written, tokenizer, options.temperature, options.documents, options.seed)
    return (files if options.paths else generated)(options, encoder(tokenizer))


def build(options: argparse.Namespace) -> list[Path]:
    """Count, work out both tables, write them; gives their paths."""
    from specexp.drafters.katz import katz
    from specexp.drafters.ngrams import NgramCounts, bigrams
    from specexp.models.pair import entries, load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer, key="--tokenizer")
    counts = NgramCounts(entries(tokenizer))
    counts.read(watched(documents(options, tokenizer)))
    tables = {"bigram": bigrams(counts, options.tokenizer), "trigram": katz(counts, options.tokenizer, options.min_count)}
    paths = [options.out / f"{options.name}_{kind}.safetensors" for kind in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        table.save(path)
    return paths


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m specexp.tables", description=__doc__, formatter_class=layout)
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
    try:
        for path in build(parse(arguments)):
            print(f"{path}  {path.stat().st_size} bytes")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
