"""Beam search: it looks for the likeliest whole text instead of choosing the likeliest next token. It is the one method of this project
that has a loop of its own.

A hypothesis is a text that the search considers; it is live while it may still grow. All live hypotheses are scored in one target pass per
token. A rule then decides which of their continuations live on, which are finished and when the search is over. There are two rules, both
published, each with its own length penalty for comparing texts of different lengths: `GnmtRule` and `PowerRule`.

The search is deterministic: it has no temperature and draws nothing. Its aim differs from that of greedy decoding, so its text need not be
the target's greedy text, and the method is never lossless. It does not know how a model is run or what it caches (`BeamRunner` does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from time import perf_counter
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from specexp.decoding.decoder import Round
from specexp.decoding.protocols import Drafter, Facts, Stop, Usage
from specexp.decoding.sampling import Draws, Sampling


@dataclass(frozen=True)
class Hypothesis:
    """One text of the search. ids: the tokens generated so far. total: the sum of log p over them, rounded to float32. row: the number of
    the live beam that it continues.

    finish: None while it may grow, then "eos", "stop" or "length".
    """

    ids: tuple[int, ...] = ()
    total: float = 0.0
    row: int = 0
    finish: str | None = None


@dataclass(frozen=True)
class Beams:
    """All texts that the search keeps. live: those that go on growing, each of which is one row of the next pass; there are none when the
    search is over. done: the finished ones, best first."""

    live: tuple[Hypothesis, ...] = (Hypothesis(),)
    done: tuple[Hypothesis, ...] = ()


class BeamRunner(Protocol):
    """The target model, run over several continuations of one prompt at once. As with `Runner`, it may keep a cache, which nobody else
    touches and which does not change the result."""

    facts: Facts

    def usage(self) -> Usage:
        """What has been used since `start`: the passes (each is over all rows), and the largest size that the filled cache had, summed
        over all rows."""

    def start(self, prompt: Sequence[int], max_new_tokens: int, num_beams: int) -> Tensor:
        """Forget everything and make room for `num_beams` rows of `max_new_tokens` after the prompt. Returns [1, V], the logits of the
        first token."""

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """Make row i a copy of what row parents[i] was and append tokens[i] to it. Returns [len(tokens), V], the logits of what follows.

        For example, tokens=[7, 9] and parents=[0, 0] continue the text of row 0 in two ways; the text of row 1 is given up.
        """


class BeamRule(Protocol):
    """A rule decides which hypotheses stay and when the search is over."""

    num_beams: int
    top_k: int | None  # how many continuations each live beam proposes; None: all of them compete

    def select(self, done: tuple[Hypothesis, ...], extensions: Iterator[Hypothesis], max_new_tokens: int) -> Beams:
        """Choose which of the finished hypotheses and of the live ones' extensions stay. The extensions come in the order of falling
        totals, and each is computed only when the rule asks for it."""


@dataclass
class BeamDecoder:
    """Decodes a text in a single round, because no token is certain to be in the text before the search has ended."""

    target: BeamRunner
    rule: BeamRule
    lossless: ClassVar[bool] = False
    follows_sampling: ClassVar[bool] = False
    drafter: ClassVar[Drafter] = Drafter()
    _seconds: float = field(default=0.0, init=False, repr=False)  # seconds spent in the target since `generate` began

    def check(self, sampling: Sampling) -> None:
        """Every sampling rule is accepted and ignored, because the search draws nothing."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """There is nothing to prepare."""

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Round]:
        """Yield one Round that holds the whole text. Its draft_seconds is 0, and its target_seconds is the sum over all passes. `draws` is
        not used."""
        self._seconds = 0.0
        [last] = deque(self.search(prompt, max_new_tokens, stop), maxlen=1)
        best = last.done[0]
        yield Round(best.ids, target_seconds=self._seconds, finish=best.finish)

    def search(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> Iterator[Beams]:
        """Yield the beams after each token. The last ones are all finished, best first."""
        beams = Beams()
        while beams.live:
            log_probs = self._log_probs(beams, prompt, max_new_tokens)
            extensions = self._extensions(beams.live, log_probs, stop, max_new_tokens)
            beams = self.rule.select(beams.done, extensions, max_new_tokens)
            yield beams

    @torch.inference_mode()
    def _log_probs(self, beams: Beams, prompt: Sequence[int], max_new_tokens: int) -> Tensor:
        """Return [live, V], log p of every continuation in float32."""
        began = perf_counter()
        if beams.live[0].ids:
            logits = self.target.logits([beam.ids[-1] for beam in beams.live], [beam.row for beam in beams.live])
        else:
            logits = self.target.start(prompt, max_new_tokens, self.rule.num_beams)
        self._seconds += perf_counter() - began
        return logits.float().log_softmax(-1)

    def _extensions(self, live: Sequence[Hypothesis], log_probs: Tensor, stop: Stop, max_new_tokens: int) -> Iterator[Hypothesis]:
        """Yield the live hypotheses' extensions by falling total. With the last token all of them end, so only the `num_beams` best are
        needed then."""
        length = len(live[0].ids) + 1
        proposals = self.rule.top_k if length > 1 else None  # the first token fills all beams, even if a beam proposes fewer later
        totals = log_probs + torch.tensor([beam.total for beam in live], device=log_probs.device)[:, None]
        ordered = best_first(totals, 2 * self.rule.num_beams, proposals)
        for total, row, token in islice(ordered, self.rule.num_beams) if length == max_new_tokens else ordered:
            ids = (*live[row].ids, token)
            cut = stop(ids, length - 1)
            yield Hypothesis(ids, total, row, cut.finish if cut else "length" if length == max_new_tokens else None)


@torch.inference_mode()
def _top(totals: Tensor, count: int) -> list[tuple[float, int]]:
    """Return (value, flat index) of the `count` largest totals, the largest first. This is all that one step copies to the host."""
    values, indices = totals.flatten().topk(count)
    return list(zip(values.tolist(), indices.tolist(), strict=True))


def best_first(totals: Tensor, expected: int, proposals: int | None = None) -> Iterator[tuple[float, int, int]]:
    """Yield (total, row, token) of the [B, V] `totals`, the largest first. Ids that cannot occur (-inf) are left out.

    The `expected` largest are fetched at once, and twice as many whenever these have been used up. proposals: the largest number of
    tokens taken from one row.
    """
    tokens = None
    if proposals is not None and proposals < totals.shape[1]:
        totals, tokens = totals.topk(proposals, dim=1)
        tokens = tokens.tolist()
    width, given, count = totals.shape[1], 0, min(expected, totals.numel())
    while given < count:
        for total, index in _top(totals, count)[given:]:
            if total == float("-inf"):
                return
            row, column = divmod(index, width)
            yield total, row, column if tokens is None else tokens[row][column]
        given, count = count, min(2 * count, totals.numel())


@dataclass(frozen=True)
class GnmtRule:
    """The score of a text is the sum of log p / ((m + length) / (m + 1))^α, where m is min_length (Wu et al. 2016, arXiv:1609.08144,
    equation 14, with m = 5). For example, with m = 5 and α = 1.2 a text of 10 tokens has its sum divided by (15 / 6)^1.2 = 3.0.

    There are `num_beams` places. A finished hypothesis keeps its place until a better one comes, so fewer and fewer places are left to
    live ones, and the search is over when all places hold finished hypotheses. The first token fills all places; later, each live beam
    proposes its `top_k` likeliest tokens. No two hypotheses are equal, since they differ either in their first token or where they
    branched.
    """

    num_beams: int = 4
    top_k: int | None = 3
    min_length: int = 5
    alpha: float = 1.2

    def __post_init__(self) -> None:
        _check_at_least_one(num_beams=self.num_beams, top_k=self.top_k)
        if self.min_length < 0:
            raise ValueError(f"min_length={self.min_length} is negative; give the penalty's constant m, 0 or more (usually 5).")

    def select(self, done: tuple[Hypothesis, ...], extensions: Iterator[Hypothesis], max_new_tokens: int) -> Beams:
        kept = _best([*done, *islice(extensions, self.num_beams)], self.score, self.num_beams)
        return Beams(tuple(h for h in kept if h.finish is None), tuple(h for h in kept if h.finish is not None))

    def score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.total / ((self.min_length + len(hypothesis.ids)) / (self.min_length + 1)) ** self.alpha


@dataclass(frozen=True)
class PowerRule:
    """The score of a text is the sum of log p / length^α. This is the beam search of transformers' `generate(num_beams=...,
    length_penalty=α)`, and gives the same tokens.

    The `num_beams` best continuations that do not finish live on. A continuation that finishes is kept only if it is itself among the
    `num_beams` best of its step, and only the best `num_beams` of those are remembered. Once that many are finished, early_stopping says
    when the search is over: true ends it at once; false ends it when the best live hypothesis, scored at its present length, does not beat
    the worst finished one; "never" does the same, but scores the live one at the length at which its score would be best.
    """

    num_beams: int = 4
    alpha: float = 1.0
    early_stopping: bool | str = False
    top_k: int | None = None

    def __post_init__(self) -> None:
        _check_at_least_one(num_beams=self.num_beams, top_k=self.top_k)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ValueError(f"early_stopping={self.early_stopping} does not fit; give true, false or never.")

    def select(self, done: tuple[Hypothesis, ...], extensions: Iterator[Hypothesis], max_new_tokens: int) -> Beams:
        first = list(islice(extensions, self.num_beams))
        done = _best([*done, *(h for h in first if h.finish is not None)], self.score, self.num_beams)
        live = tuple(islice((h for h in chain(first, extensions) if h.finish is None), self.num_beams))
        return Beams(() if self._over(done, live, max_new_tokens) else live, done)

    def score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.total / len(hypothesis.ids) ** self.alpha

    def _over(self, done: tuple[Hypothesis, ...], live: tuple[Hypothesis, ...], max_new_tokens: int) -> bool:
        if not live or len(done) < self.num_beams:
            return not live
        length = max_new_tokens if self.early_stopping == "never" and self.alpha > 0 else len(live[0].ids)
        return self.early_stopping is True or live[0].total / length**self.alpha <= self.score(done[-1])


def _best(hypotheses: Sequence[Hypothesis], score, count: int) -> tuple[Hypothesis, ...]:
    """Return the `count` hypotheses with the highest score, best first. Of equal ones the earlier comes first."""
    return tuple(sorted(hypotheses, key=score, reverse=True)[:count])


def _check_at_least_one(num_beams: int, top_k: int | None) -> None:
    if num_beams < 1:
        raise ValueError(f"num_beams={num_beams} keeps no text; give 1 or more (1 is greedy decoding).")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} proposes nothing; give 1 or more, or null to let all continuations compete.")
