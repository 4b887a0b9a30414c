"""A Katz back-off trigram of a corpus as a draft (Katz 1987; the second draft of Staged Speculative Decoding, arXiv:2308.04623).

P(w|uv) = (c(uvw) - d) / c(uv) where uvw was counted, alpha(uv) P(w|v) elsewhere; P(w|v) likewise over P(w); P(w) = (c(w) + 1)/(N + V).
d is the absolute discount of each order, n1 / (n1 + 2 n2) (Ney et al. 1994); alpha gives the rest exactly the mass that is left, also
after rare n-grams were dropped. A distribution over all V ids, computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Verdict
from specexp.decoding.sampling import Draws
from specexp.drafters import ngrams
from specexp.drafters.copying import without_logits
from specexp.drafters.ngrams import NgramCounts


@dataclass(frozen=True, eq=False)
class Level:
    """What follows each of C contexts. contexts: [C] sorted keys; starts: [C + 1]; ids and p: [E], rows starts[i] to starts[i + 1];
    rest: [C], alpha: the factor on the next shorter context's P for all other ids."""

    contexts: Tensor
    starts: Tensor
    ids: Tensor
    p: Tensor
    rest: Tensor

    def apply(self, key: int, shorter: Tensor) -> Tensor:
        """[V] P behind the context `key`, given P behind the shorter one."""
        row = int(torch.searchsorted(self.contexts, key))
        if row == len(self.contexts) or self.contexts[row] != key:
            return shorter
        seen = slice(int(self.starts[row]), int(self.starts[row + 1]))
        p = shorter * self.rest[row]
        p[self.ids[seen]] = self.p[seen]
        return p


class KatzTable:
    """tensors: what the file holds (see `counted`); the probabilities are worked out from it at once, in float64."""

    def __init__(self, tensors: dict[str, Tensor], facts: ngrams.Facts):
        self.tensors, self.facts = tensors, facts
        unigrams = tensors["unigrams"].double() + 1
        self.unigrams = unigrams / unigrams.sum()  # [V]
        pairs = _entries(tensors, "bigram")
        self.bigrams = _level(tensors, "bigram", pairs, self.unigrams[pairs[1]])
        triples = _entries(tensors, "trigram")
        behind = tensors["trigram_contexts"][triples[0]] % facts.vocab_size  # v of each (u, v, w)
        self.trigrams = _level(tensors, "trigram", triples, self._pairs(behind, triples[1]))

    def distribution(self, before: Sequence[int]) -> Tensor:
        """[V] float64 P(w | the last two of `before`), which sums to 1. Ids the table lacks are no context."""
        size = self.facts.vocab_size
        p = self.unigrams
        if before and before[-1] < size:
            p = self.bigrams.apply(before[-1], p)
            if len(before) > 1 and before[-2] < size:
                p = self.trigrams.apply(before[-2] * size + before[-1], p)
        return p

    def save(self, path: Path) -> None:
        ngrams.save(path, self.tensors, self.facts)

    def _pairs(self, before: Tensor, ids: Tensor) -> Tensor:
        """P(w | v) for the ids v = before[i], w = ids[i]."""
        level, size = self.bigrams, self.facts.vocab_size
        rows = torch.searchsorted(level.contexts, before)  # every v was counted before something, though that may have been dropped
        known = (rows < len(level.contexts)) & (level.contexts[rows.clamp(max=len(level.contexts) - 1)] == before)
        p = torch.where(known, level.rest[rows.clamp(max=len(level.rest) - 1)], 1.0) * self.unigrams[ids]
        keys = level.contexts.repeat_interleave(level.starts.diff()) * size + level.ids
        places = torch.searchsorted(keys, wanted := before * size + ids).clamp(max=len(keys) - 1)
        return torch.where(keys[places] == wanted, level.p[places], p)


def _entries(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """For each counted n-gram its context's row and its last id."""
    starts = tensors[f"{name}_starts"]
    return torch.arange(len(starts) - 1).repeat_interleave(starts.diff()), tensors[f"{name}_ids"]


def _level(tensors: dict[str, Tensor], name: str, entries: tuple[Tensor, Tensor], shorter: Tensor) -> Level:
    """shorter: [E] P of each entry's id behind the next shorter context."""
    rows, ids = entries
    totals = tensors[f"{name}_totals"].double()
    p = (tensors[f"{name}_counts"] - tensors[f"{name}_discount"].double()) / totals[rows]
    left = 1 - torch.zeros_like(totals).index_add_(0, rows, p)
    others = 1 - torch.zeros_like(totals).index_add_(0, rows, shorter)
    nothing = others < 1e-9  # all V ids were seen here: nothing to leave the mass to, so they share it
    p = torch.where(nothing[rows], p / (1 - left)[rows], p)
    return Level(tensors[f"{name}_contexts"], tensors[f"{name}_starts"], ids, p, torch.where(nothing, 0.0, left / others))


def load_katz(path: str) -> KatzTable:
    """UserError if `path` (a file or asset:NAME) holds no trigram table."""
    return KatzTable(*ngrams.load(path, "trigram"))


def katz(counts: NgramCounts, tokenizer: str, min_count: int = 1) -> KatzTable:
    """The table of a corpus, without bigrams and trigrams that occur less than `min_count` times; their mass goes to the back-off."""
    tensors = {"unigrams": torch.zeros(counts.vocab_size, dtype=torch.int64).index_add_(0, counts.keys[1], counts.counts[1])}
    for name, order in (("bigram", 2), ("trigram", 3)):
        tensors |= {f"{name}_{part}": tensor for part, tensor in _counted(counts, order, min_count).items()}
    return KatzTable(tensors, ngrams.Facts("trigram", counts.vocab_size, tokenizer, counts.tokens))


def _counted(counts: NgramCounts, order: int, min_count: int) -> dict[str, Tensor]:
    """contexts, starts, ids, counts as in Level; totals: [C] c(context), the dropped included; discount: [1]."""
    keys, times = counts.keys[order], counts.counts[order]
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    contexts, rows = torch.unique(keys // counts.vocab_size, return_inverse=True)
    totals = torch.zeros(len(contexts), dtype=torch.int64).index_add_(0, rows, times)
    kept = times >= min_count
    sizes = torch.bincount(rows[kept], minlength=len(contexts))
    full = sizes > 0
    return {
        "contexts": contexts[full],
        "starts": torch.cat([torch.zeros(1, dtype=torch.int64), sizes[full].cumsum(0)]),
        "ids": keys[kept] % counts.vocab_size,
        "counts": times[kept],
        "totals": totals[full],
        "discount": torch.tensor([once / (once + 2 * twice) if once and twice else 0.5], dtype=torch.float64),
    }


class KatzDrafter(Drafter):
    """Chains by the target's own sampling rule: argmax at temperature 0, else real draws, which hand up the law they came from."""

    def __init__(self, table: KatzTable, policy: LengthRule, vocabulary: ngrams.Vocabulary):
        ngrams.check_vocabulary(table.facts, vocabulary)
        self.table, self.policy, self.vocabulary = table, without_logits(policy), vocabulary
        self._best: dict[tuple[int, ...], int] = {}  # argmax behind two ids, since asked for

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()
        self._best.clear()

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        length = min(self.policy.length(), limit) if limit else 0
        if length == 0:
            return empty_draft(context.device)
        return self._greedy(context, length) if draws.is_greedy else self._drawn(context, length, draws)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))

    def _greedy(self, context: Context, length: int) -> Draft:
        ids = context.ids[-2:]
        begin = len(ids)
        for _ in range(length):
            before = tuple(ids[-2:])
            if before not in self._best:
                self._best[before] = int(self._logits(before).argmax())
            ids.append(self._best[before])
        return Draft.of_ids(ids[begin:], context.device)

    def _drawn(self, context: Context, length: int, draws: Draws) -> Draft:
        ids, tokens, q = context.ids[-2:], [], []
        dtype = torch.float32 if context.device.type == "mps" else torch.float64
        for _ in range(length):
            token, law = draws.token(self._logits(ids)[None].to(context.device, dtype))
            ids = [ids[-1], int(token)]
            tokens.append(token)
            q.append(law)
        return Draft.chain(torch.cat(tokens), torch.cat(q))

    def _logits(self, before: Sequence[int]) -> Tensor:
        """[rows] log P, -inf for rows that are no ids of the tokenizer."""
        p = self.table.distribution(before[-2:])[: self.vocabulary.rows]
        return torch.nn.functional.pad(p.log(), (0, self.vocabulary.rows - len(p)), value=float("-inf"))
