"""A Katz back-off trigram as a drafter: it drafts by how often three ids followed each other in a corpus (Katz 1987; the second draft of
Staged Speculative Decoding, arXiv:2308.04623).

Let c be the counts of the corpus, and u and v the last two ids. The probability of the next id w is

    P(w|uv) = (c(uvw) - d) / c(uv)   if uvw was counted, and else   alpha(uv) P(w|v)
    P(w|v)  = (c(vw) - d) / c(v)     if vw was counted, and else    alpha(v) P(w)
    P(w)    = (c(w) + 1) / (N + V)

d is the absolute discount, for each order n1 / (n1 + 2 n2), where n1 and n2 are the numbers of n-grams that occur once and twice (Ney et
al. 1994). alpha is such that the probabilities add up to 1, also after rare n-grams were dropped. For example, if uv occurred 10 times,
followed 6 times by x and 4 times by y, then with d = 0.5 P(x|uv) = 0.55 and P(y|uv) = 0.35, and the other ids share 0.1.

The table gives a distribution over all V ids, which is computed when it is asked for. How the ids were counted is the matter of
`NgramCounts` (ngrams.py).
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
    """What follows each of C contexts. contexts: [C] sorted keys. starts: [C + 1]. ids and p: [E]; those of context i are at starts[i] to
    starts[i + 1]. rest: [C], the alpha of each context: the factor on the next shorter context's P for all other ids."""

    contexts: Tensor
    starts: Tensor
    ids: Tensor
    p: Tensor
    rest: Tensor

    def apply(self, key: int, shorter: Tensor) -> Tensor:
        """Return P after the context `key`, [V], given P after the next shorter context, [V]."""
        row = int(torch.searchsorted(self.contexts, key))
        if row == len(self.contexts) or self.contexts[row] != key:
            return shorter
        seen = slice(int(self.starts[row]), int(self.starts[row + 1]))
        p = shorter * self.rest[row]
        p[self.ids[seen]] = self.p[seen]
        return p


class KatzTable:
    """The trigram's table. tensors: what the file holds (see `_counted`). The probabilities are computed from the counts at once, in
    float64."""

    def __init__(self, tensors: dict[str, Tensor], facts: ngrams.Facts):
        self.tensors, self.facts = tensors, facts
        unigrams = tensors["unigrams"].double() + 1
        self.unigrams = unigrams / unigrams.sum()  # [V]
        pairs = _entries(tensors, "bigram")
        self.bigrams = _level(tensors, "bigram", pairs, self.unigrams[pairs[1]])
        triples = _entries(tensors, "trigram")
        middle = tensors["trigram_contexts"][triples[0]] % facts.vocab_size  # the v of each (u, v, w)
        self.trigrams = _level(tensors, "trigram", triples, self._pairs(middle, triples[1]))

    def distribution(self, before: Sequence[int]) -> Tensor:
        """Return P(w | the last two ids of `before`), [V] in float64, which adds up to 1. Ids that the table does not know are left out of
        the context."""
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
        """Return P(w | v) for each v = before[i] and w = ids[i]."""
        level, size = self.bigrams, self.facts.vocab_size
        rows = torch.searchsorted(level.contexts, before)  # a v may be missing, if all pairs that begin with it were too rare to keep
        known = (rows < len(level.contexts)) & (level.contexts[rows.clamp(max=len(level.contexts) - 1)] == before)
        p = torch.where(known, level.rest[rows.clamp(max=len(level.rest) - 1)], 1.0) * self.unigrams[ids]
        keys = level.contexts.repeat_interleave(level.starts.diff()) * size + level.ids
        places = torch.searchsorted(keys, wanted := before * size + ids).clamp(max=len(keys) - 1)
        return torch.where(keys[places] == wanted, level.p[places], p)


def _entries(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return the row of the context and the last id of each counted n-gram."""
    starts = tensors[f"{name}_starts"]
    return torch.arange(len(starts) - 1).repeat_interleave(starts.diff()), tensors[f"{name}_ids"]


def _level(tensors: dict[str, Tensor], name: str, entries: tuple[Tensor, Tensor], shorter: Tensor) -> Level:
    """Compute the probabilities of one order. shorter: [E], P of each entry's id after the next shorter context."""
    rows, ids = entries
    totals = tensors[f"{name}_totals"].double()
    p = (tensors[f"{name}_counts"] - tensors[f"{name}_discount"].double()) / totals[rows]
    left = 1 - torch.zeros_like(totals).index_add_(0, rows, p)
    others = 1 - torch.zeros_like(totals).index_add_(0, rows, shorter)
    nothing = others < 1e-9  # all V ids were counted here, so they share what would be left for others
    p = torch.where(nothing[rows], p / (1 - left)[rows], p)
    return Level(tensors[f"{name}_contexts"], tensors[f"{name}_starts"], ids, p, torch.where(nothing, 0.0, left / others))


def load_katz(path: str) -> KatzTable:
    """Load a trigram table. Raises UserError if `path` (a file or asset:NAME) holds none."""
    return KatzTable(*ngrams.load(path, "trigram"))


def katz(counts: NgramCounts, tokenizer: str, min_count: int = 1) -> KatzTable:
    """Make the table of a corpus. Bigrams and trigrams that occur less than `min_count` times are dropped, and their probability goes to
    the shorter contexts."""
    tensors = {"unigrams": torch.zeros(counts.vocab_size, dtype=torch.int64).index_add_(0, counts.keys[1], counts.counts[1])}
    for name, order in (("bigram", 2), ("trigram", 3)):
        tensors |= {f"{name}_{part}": tensor for part, tensor in _counted(counts, order, min_count).items()}
    return KatzTable(tensors, ngrams.Facts("trigram", counts.vocab_size, tokenizer, counts.tokens))


def _counted(counts: NgramCounts, order: int, min_count: int) -> dict[str, Tensor]:
    """Return the tensors of one order. contexts, starts, ids: as in `Level`. counts: [E]. totals: [C], c(context), in which dropped n-grams
    are included. discount: [1], d."""
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
    """Drafts chains by the generation's sampling rule. At temperature 0 they are the likeliest ids; otherwise they are drawn, and the draft
    has the distributions they were drawn from as its q."""

    def __init__(self, table: KatzTable, policy: LengthRule, vocabulary: ngrams.Vocabulary):
        ngrams.check_vocabulary(table.facts, vocabulary)
        self.table, self.policy, self.vocabulary = table, without_logits(policy), vocabulary
        self._best: dict[tuple[int, ...], int] = {}  # the likeliest id after two ids, for those already asked for

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
        """Return log P in the width of the target's logits, [rows]; it is -inf for ids that the tokenizer does not have."""
        p = self.table.distribution(before[-2:])[: self.vocabulary.rows]
        return torch.nn.functional.pad(p.log(), (0, self.vocabulary.rows - len(p)), value=float("-inf"))
