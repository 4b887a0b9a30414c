"""Beam search: the likeliest whole text instead of the likeliest next token. The one method with a loop of its own.

All live hypotheses are scored in one target pass per token. What becomes of their continuations (which live on, which are done,
when to end) is a rule's business (beam_rules). Deterministic: knows no temperature, draws nothing. Promises nothing about the
text being the target's greedy one: it pursues another aim, so it is never lossless.

Which hypotheses of a beam search stay, how texts of unlike length are compared, and when the search is over.

Two published rules, each with its own length penalty. Know sums of log-probabilities and lengths; nothing of models or devices.
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

from specexp.decoding.decoder import Step
from specexp.decoding.protocols import Drafter, Facts, Stop, Usage
from specexp.decoding.sampling import Draws, Sampling


@dataclass(frozen=True)
class Hypothesis:
    """ids: generated so far. total: sum of log p over them (float32's values). row: of the live beam it continues.

    finish: None while it may grow, then "eos", "stop" or "length".
    """

    ids: tuple[int, ...] = ()
    total: float = 0.0
    row: int = 0
    finish: str | None = None


@dataclass(frozen=True)
class Beams:
    """live: those that grow on, one row each of the next pass; none when the search is over. done: the finished ones, best first."""

    live: tuple[Hypothesis, ...] = (Hypothesis(),)
    done: tuple[Hypothesis, ...] = ()


class BeamRunner(Protocol):
    """The target over several texts of one prompt. As with Runner, any cache behind it is a memo that nobody else touches."""

    facts: Facts

    def usage(self) -> Usage:
        """Since `start`: passes, each over all rows; the largest size of the filled cache, all rows together."""

    def start(self, prompt: Sequence[int], max_new_tokens: int, num_beams: int) -> Tensor:
        """Forget everything, make room for `num_beams` rows of `max_new_tokens` behind the prompt -> [1, V]: logits of the first token."""

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """Row i becomes what row parents[i] was, with tokens[i] behind it -> [len(tokens), V]: logits of what follows."""


class BeamRule(Protocol):
    num_beams: int
    top_k: int | None  # how many continuations each live beam proposes; None: all compete

    def select(self, done: tuple[Hypothesis, ...], extensions: Iterator[Hypothesis], max_new_tokens: int) -> Beams:
        """Which of the finished hypotheses and of the live ones' extensions stay. `extensions`: by falling total, made when asked for."""


@dataclass
class BeamDecoder:
    """A decoder whose stream is one single round: until the search ends, no token is known to be in the text."""

    target: BeamRunner
    rule: BeamRule
    lossless: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    drafter: ClassVar[Drafter] = Drafter()
    _seconds: float = field(default=0.0, init=False, repr=False)  # in the target since `generate` began

    def check(self, sampling: Sampling) -> None:
        """Any rule is accepted, as none is used: the search draws nothing."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """There is nothing to prepare."""

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Step]:
        """One Step with the whole text. draft_seconds is 0; target_seconds sums all passes. `draws` are not used."""
        self._seconds = 0.0
        [last] = deque(self.search(prompt, max_new_tokens, stop), maxlen=1)
        best = last.done[0]
        yield Step(best.ids, target_seconds=self._seconds, finish=best.finish)

    def search(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> Iterator[Beams]:
        """The beams after each token; the last ones are all done, best first."""
        beams = Beams()
        while beams.live:
            log_probs = self._log_probs(beams, prompt, max_new_tokens)
            extensions = self._extensions(beams.live, log_probs, stop, max_new_tokens)
            beams = self.rule.select(beams.done, extensions, max_new_tokens)
            yield beams

    @torch.inference_mode()
    def _log_probs(self, beams: Beams, prompt: Sequence[int], max_new_tokens: int) -> Tensor:
        """[live, V] log p of every continuation, float32."""
        began = perf_counter()
        if beams.live[0].ids:
            logits = self.target.logits([beam.ids[-1] for beam in beams.live], [beam.row for beam in beams.live])
        else:
            logits = self.target.start(prompt, max_new_tokens, self.rule.num_beams)
        self._seconds += perf_counter() - began
        return logits.float().log_softmax(-1)

    def _extensions(self, live: Sequence[Hypothesis], log_probs: Tensor, stop: Stop, max_new_tokens: int) -> Iterator[Hypothesis]:
        """By falling total. With the last token all end, so none beyond `num_beams` has a meaning."""
        length = len(live[0].ids) + 1
        proposals = self.rule.top_k if length > 1 else None  # the root fills all beams, however few it may propose later
        totals = log_probs + torch.tensor([beam.total for beam in live], device=log_probs.device)[:, None]
        ordered = best_first(totals, 2 * self.rule.num_beams, proposals)
        for total, row, token in islice(ordered, self.rule.num_beams) if length == max_new_tokens else ordered:
            ids = (*live[row].ids, token)
            cut = stop(ids, length - 1)
            yield Hypothesis(ids, total, row, cut.finish if cut else "length" if length == max_new_tokens else None)


@torch.inference_mode()
def _top(totals: Tensor, count: int) -> list[tuple[float, int]]:
    """(value, flat index) of the `count` largest, falling: what one step brings to the host."""
    values, indices = totals.flatten().topk(count)
    return list(zip(values.tolist(), indices.tolist(), strict=True))


def best_first(totals: Tensor, expected: int, proposals: int | None = None) -> Iterator[tuple[float, int, int]]:
    """(total, row, token) of [B, V] `totals`, falling; ids that cannot occur (-inf) are left out.

    `expected` are fetched at once and twice as many whenever these are used up. proposals: at most so many of each row.
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
    """Score = sum of log p / ((m + length) / (m + 1))^α, m = min_length (Wu et al. 2016, arXiv:1609.08144, equation 14, with m = 5).

    Finished hypotheses keep their place among the `num_beams` as long as no better one comes, so the search narrows; it is over
    when every place is a finished one. The first token fills all places, later each live beam proposes its `top_k` likeliest.
    No two hypotheses are equal: they grow from unlike first tokens by unlike continuations.
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
    """Score = sum of log p / length^α: the beam search of transformers' `generate(num_beams=..., length_penalty=α)`, token for token.

    The `num_beams` best continuations that do not finish live on. One that finishes is kept only if it is itself among the
    `num_beams` best of its step; the best `num_beams` of those are remembered. The search is over when so many are finished and
    early_stopping is true; or no live one can pass the worst of them at its present length (false), or at the length at which its
    score would be best ("never").
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
    """The `count` of highest score, best first; of equal ones the earlier."""
    return tuple(sorted(hypotheses, key=score, reverse=True)[:count])


def _check_at_least_one(num_beams: int, top_k: int | None) -> None:
    if num_beams < 1:
        raise ValueError(f"num_beams={num_beams} keeps no text; give 1 or more (1 is greedy decoding).")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} proposes nothing; give 1 or more, or null to let all continuations compete.")
