"""Which hypotheses of a beam search stay, how texts of unlike length are compared, and when the search is over.

Two published rules, each with its own length penalty. Know sums of log-probabilities and lengths; nothing of models or devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from specexp.decoding.beam import Beams, Hypothesis


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
