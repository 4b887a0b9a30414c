"""Tables of n-grams: how they are counted in a corpus and kept in files, and the drafter that uses the simplest of them.

- `NgramCounts` counts how often each n-gram occurs in a stream of documents, a block of documents at a time. Its memory grows with the
  number of different n-grams, not with the length of the text. An n-gram never reaches from one document into the next.
- `save` and `load` keep tables as safetensors files, together with the facts about what they were built from. A file is complete or does
  not exist. These functions do not know what the tensors mean.
- `BigramDrafter` drafts the likeliest next id after each id. It is the cheapest drafter there is, and the last in the cascade of
  CS-Drafting (arXiv:2312.11462).

The trigram is in katz.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specexp.assets import asset_path
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Verdict
from specexp.decoding.sampling import Draws
from specexp.drafters.copying import without_logits
from specexp.errors import UserError

BUILD = "build one: python -m specexp.tables --tokenizer NAME --out DIR"
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


class Vocabulary(Protocol):
    """The sizes of a pair's vocabulary. entries: the number of ids that the pair's tokenizer knows. rows: V, the width of the target's
    logits."""

    entries: int
    rows: int


@dataclass(frozen=True)
class Facts:
    """What a table was built from. kind: "bigram" or "trigram". vocab_size: the number of ids of the tokenizer. tokenizer: its name.
    tokens: how many tokens were counted."""

    kind: str
    vocab_size: int
    tokenizer: str
    tokens: int


ADDED = 64  # a tokenizer may have this many ids more than the one that its table was built with; they are never drafted


def save(path: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write a table. Integers are stored in the smallest type that holds them. `path` is replaced in one step, so that no half-written
    file is ever seen."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: _compact(tensor) for name, tensor in tensors.items()}, draft, {k: str(v) for k, v in asdict(facts).items()})
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # the directory may not exist, or may be a file
            draft.unlink()
        raise UserError(f"cannot write {path} ({error}); choose another directory with --out DIR.") from error


def load(path: str, kind: str) -> tuple[dict[str, Tensor], Facts]:
    """Return a table's tensors, with integers as int64, and its facts. `path` may be asset:NAME. Raises UserError if there is no table of
    this kind."""
    place = asset_path(path)
    if not place.is_file():
        raise UserError(f"there is no {kind} table {place}; {BUILD}, and give its path (method.table=FILE for method=katz).")
    try:
        with safe_open(place, "pt") as file:
            meta, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place} cannot be read as safetensors ({error}); {BUILD}.") from error
    if meta.get("kind") != kind:
        raise UserError(f"{place} is no {kind} table but {meta.get('kind', 'something else')}; {BUILD}.")
    facts = Facts(kind, int(meta["vocab_size"]), meta["tokenizer"], int(meta["tokens"]))
    return {name: tensor if tensor.is_floating_point() else tensor.long() for name, tensor in tensors.items()}, facts


def check_vocabulary(facts: Facts, vocabulary: Vocabulary) -> None:
    """Raise UserError unless the table has as many ids as the pair's tokenizer. The tokenizer may have up to ADDED more, which are added at
    the end for padding or for the roles of a chat."""
    if not 0 <= vocabulary.entries - facts.vocab_size <= ADDED:
        raise UserError(
            f"the {facts.kind} table was built for {facts.tokenizer} with {facts.vocab_size} ids, but this pair's tokenizer has "
            f"{vocabulary.entries}; {BUILD}, and give its path (method.table=FILE for method=katz)."
        )


def _compact(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or not tensor.numel():
        return tensor.contiguous()
    low, high = int(tensor.min()), int(tensor.max())
    fits = next(kind for kind in INTEGERS if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max)
    return tensor.to(fits).contiguous()


ORDERS = (1, 2, 3)
BLOCK = 1_000_000  # about how many tokens are counted at once


class NgramCounts:
    """keys[n]: [K] sorted int64, one for each different n-gram: its ids are the digits of a number to the base `vocab_size`. With 100 ids,
    the trigram (7, 0, 25) has the key 70025. counts[n]: [K], how often each occurs. tokens: how many tokens were read.
    """

    def __init__(self, vocab_size: int):
        self.vocab_size, self.tokens = vocab_size, 0
        self.keys = {order: torch.empty(0, dtype=torch.int64) for order in ORDERS}
        self.counts = {order: torch.empty(0, dtype=torch.int64) for order in ORDERS}

    def read(self, documents: Iterable[Sequence[int]]) -> None:
        """Count whole documents, in blocks of about BLOCK tokens."""
        block: list[Sequence[int]] = []
        size = 0
        for document in documents:
            block.append(document)
            size += len(document)
            if size >= BLOCK:
                self._count(block)
                block, size = [], 0
        self._count(block)

    def _count(self, block: list[Sequence[int]]) -> None:
        ids = torch.tensor([token for document in block for token in document], dtype=torch.int64)
        lengths = torch.tensor([len(document) for document in block], dtype=torch.int64)
        document = torch.repeat_interleave(torch.arange(len(block)), lengths)
        self.tokens += len(ids)
        for order in ORDERS:
            windows = max(0, len(ids) - order + 1)
            keys = torch.zeros(windows, dtype=torch.int64)
            for place in range(order):
                keys = keys * self.vocab_size + ids[place : place + windows]
            inside = document[:windows] == document[order - 1 : order - 1 + windows]
            self._merge(order, keys[inside])

    def _merge(self, order: int, keys: Tensor) -> None:
        fresh, counts = keys.unique(return_counts=True)
        merged, places = torch.cat([self.keys[order], fresh]).unique(return_inverse=True)
        totals = torch.zeros(len(merged), dtype=torch.int64)
        self.counts[order] = totals.index_add_(0, places, torch.cat([self.counts[order], counts]))
        self.keys[order] = merged


UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class BigramTable:
    """The likeliest next ids. following: [V] int64, the likeliest next id after each id, or UNKNOWN after ids that nothing follows in the
    corpus."""

    following: Tensor
    facts: Facts

    @cached_property
    def next(self) -> list[int]:
        return self.following.tolist()

    def save(self, path: Path) -> None:
        save(path, {"following": self.following}, self.facts)


def load_bigrams(path: str) -> BigramTable:
    """Load a bigram table. Raises UserError if `path` (a file or asset:NAME) holds none."""
    tensors, facts = load(path, "bigram")
    return BigramTable(tensors["following"], facts)


def bigrams(counts: NgramCounts, tokenizer: str) -> BigramTable:
    """Make the table: for every v the w with the largest count(v, w), of equal ones the smallest id."""
    often = counts.counts[2].sort(descending=True, stable=True).indices
    first, second = counts.keys[2][often] // counts.vocab_size, counts.keys[2][often] % counts.vocab_size
    order = first.sort(stable=True).indices  # by first id, and for each the most frequent second id comes first
    starts = torch.searchsorted(first[order], ids := torch.unique(first))
    following = torch.full((counts.vocab_size,), UNKNOWN, dtype=torch.int64)
    following[ids] = second[order][starts]
    return BigramTable(following, Facts("bigram", counts.vocab_size, tokenizer, counts.tokens))


class BigramDrafter(Drafter):
    """Drafts the likeliest next id, then the likeliest after that, and so on. The tokens are point masses."""

    def __init__(self, table: BigramTable, policy: LengthRule, vocabulary: Vocabulary):
        check_vocabulary(table.facts, vocabulary)
        self.table, self.policy, self.vocabulary = table, without_logits(policy), vocabulary

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        length = min(self.policy.length(), limit) if limit else 0
        ids, token = [], context.ids[-1]
        while len(ids) < length and token < len(self.table.next):
            token = self.table.next[token]
            if not 0 <= token < self.vocabulary.rows:
                break
            ids.append(token)
        return Draft.of_ids(ids, context.device) if ids else empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))
