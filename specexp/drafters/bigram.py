"""The likeliest next id after each id, from a corpus: the cheapest draft there is (the last resort of CS-Drafting, arXiv:2312.11462)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Policy, Runner, Scores, Verdict
from specexp.drafters.copying import without_logits
from specexp.drafters.tables import files
from specexp.drafters.tables.counting import NgramCounts

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class BigramTable:
    """following: [V] int64, UNKNOWN behind ids that the corpus never went on from."""

    following: Tensor
    facts: files.Facts

    @cached_property
    def next(self) -> list[int]:
        return self.following.tolist()

    def save(self, path: Path) -> None:
        files.save(path, {"following": self.following}, self.facts)


def load_bigrams(path: str) -> BigramTable:
    """UserError if `path` (a file or asset:NAME) holds no bigram table."""
    tensors, facts = files.load(path, "bigram")
    return BigramTable(tensors["following"], facts)


def bigrams(counts: NgramCounts, tokenizer: str) -> BigramTable:
    """argmax over w of count(v, w) for every v; ties go to the smaller id."""
    often = counts.counts[2].sort(descending=True, stable=True).indices
    first, second = counts.keys[2][often] // counts.vocab_size, counts.keys[2][often] % counts.vocab_size
    order = first.sort(stable=True).indices  # by first id; behind it the most frequent second comes first
    starts = torch.searchsorted(first[order], ids := torch.unique(first))
    following = torch.full((counts.vocab_size,), UNKNOWN, dtype=torch.int64)
    following[ids] = second[order][starts]
    return BigramTable(following, files.Facts("bigram", counts.vocab_size, tokenizer, counts.tokens))


class BigramDrafter:
    """A chain of likeliest successors: point masses."""

    needs_trees = needs_hidden = False
    models: ClassVar[Mapping[str, Runner]] = {}

    def __init__(self, table: BigramTable, policy: Policy, vocabulary: files.Vocabulary):
        files.check_vocabulary(table.facts, vocabulary)
        self.table, self.policy, self.vocabulary = table, without_logits(policy), vocabulary

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        length = min(self.policy.length(), limit) if limit else 0
        ids, token = [], context.ids[-1]
        while len(ids) < length and token < len(self.table.next):
            token = self.table.next[token]
            if not 0 <= token < self.vocabulary.rows:
                break
            ids.append(token)
        return Draft.of_ids(ids, context.device) if ids else empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        self.policy.observe(len(draft), len(verdict.path))
