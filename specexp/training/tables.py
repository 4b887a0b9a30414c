"""This module counts the n-grams of texts, computes the bigram and the Katz trigram table of a tokenizer, and writes both."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from specexp.datasets.files import TEXT_SUFFIXES, texts
from specexp.drafters.katz import katz
from specexp.drafters.ngrams import NgramCounts, bigrams
from specexp.errors import UserError
from specexp.models.pair import entries, load_tokenizer
from specexp.training.corpus import article_document, function_document
from specexp.training.texts import sampled_texts

EVERY = 2000  # documents between two lines of progress

Encode = Callable[[list[str]], list[int]]  # the pieces of a document, tokenised apart -> its ids


def generated(options: argparse.Namespace, encode: Encode) -> Iterator[list[int]]:
    """Documents of the corpus generator, one article to three tasks; functions of (seed, number) alone."""
    rng = random.Random(f"{options.seed}/tables")
    for number in range(options.documents):
        yield encode(article_document(rng) if number % 4 == 3 else function_document(rng, 1))


def from_files(options: argparse.Namespace, encode: Encode) -> Iterator[list[int]]:
    """The documents of files: each text file, or each line of a .jsonl file, is one document."""
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
        raise UserError(f"there is no text to count; give files ending in {', '.join(TEXT_SUFFIXES)}.")


def documents(options: argparse.Namespace, tokenizer) -> Iterator[list[int]]:
    """The documents of the one source that the options name."""
    if options.paths and options.written:
        raise UserError(f"--written {options.written} and {options.paths[0]} are two sources; give one of them.")
    if options.written:
        return sampled_texts(options.written, tokenizer, options.temperature, options.documents, options.seed)
    return (from_files if options.paths else generated)(options, encoder(tokenizer))


def build(options: argparse.Namespace) -> list[Path]:
    """Counts, computes both tables, writes them, and gives their paths."""
    tokenizer = load_tokenizer(options.tokenizer, key="--tokenizer")
    counts = NgramCounts(entries(tokenizer))
    counts.read(watched(documents(options, tokenizer)))
    tables = {"bigram": bigrams(counts, options.tokenizer), "trigram": katz(counts, options.tokenizer, options.min_count)}
    paths = [options.out / f"{options.name}_{kind}.safetensors" for kind in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        table.save(path)
    return paths
