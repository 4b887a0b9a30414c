"""The target's own greedy text, known before it is decoded: what test drafters draft from.

It is decoded autoregressively by a runner of its own, once per prompt, before any clock starts where whoever times calls `prepare`
(generation.py does), else in `start`. So it costs nothing that is measured as decoding, and no drafter with it is one anybody could use.
Knows greedy text only: what will be drawn under sampling cannot be known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Runner
from specexp.decoding.sampling import Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.nothing import NoDraft
from specexp.errors import UserError


class Foresight:
    """oracle: the target's weights with a cache of their own.

    Where the text leaves what was foreseen (a near-tie that another width of pass decides otherwise, in 16 bits), nothing is foreseen any
    more: drafts are then empty, and the rest of that text is decoded autoregressively.
    """

    def __init__(self, oracle: Runner):
        self.oracle = oracle
        self._known: tuple[tuple[int, ...], int] | None = None  # prompt and length of what was decoded last
        self._ids: list[int] = []
        self._tokens = torch.empty(0, dtype=torch.int64)
        self._begin: int | None = None  # where the generated text begins in a context
        self._agreed = 0  # of the text so far: so many ids are as foreseen

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Decode what will be asked for, unless it is what was decoded last."""
        wanted = (tuple(prompt), max_new_tokens)
        if wanted == self._known:
            return
        alone = Decoder(self.oracle, NoDraft(), RejectionVerifier(Sampling(0.0)))
        chance = Chance(device=self.oracle.device)
        with torch.inference_mode():
            self._ids = [token for step in alone.generate(prompt, max_new_tokens, _never, chance) for token in step.tokens]
            self._tokens = torch.tensor(self._ids, dtype=torch.int64, device=self.oracle.device)
        self._known = wanted

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.prepare(prompt, max_new_tokens)
        self._begin, self._agreed = None, 0

    def ahead(self, context: Context, length: int) -> Tensor:
        """[<= length] the tokens that the target will put behind the context; none where the text went another way."""
        if self._begin is None:
            self._begin = len(context)
        since = len(context) - self._begin
        self._agreed = self._agreed if since >= self._agreed else 0
        if context.ids[self._begin + self._agreed :] != self._ids[self._agreed : since]:
            return self._tokens[:0]
        self._agreed = since
        return self._tokens[since : since + length]


@dataclass(frozen=True)
class Spoiling:
    """alpha: probability that a token stays what was foreseen. sampling: the run's rule.

    UserError for an alpha outside [0, 1], and under sampling, where the text cannot be foreseen.
    """

    alpha: float
    sampling: Sampling

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={self.alpha} is no probability; give the share of drafted tokens that are to be accepted, from 0 to 1.")
        if not self.sampling.is_greedy:
            raise UserError(
                f"sampling.temperature={self.sampling.temperature} draws texts that nobody can foresee, and this method drafts from the "
                "target's own; choose sampling=greedy, or another method."
            )

    def __call__(self, foreseen: Tensor, chance: Chance, own: Tensor | None = None) -> Tensor:
        """[n] each token kept or not, independently; else another one: `own` where that differs, or a neighbouring id. No sync."""
        neighbour = torch.where(foreseen == 0, 1, foreseen - 1)
        wrong = neighbour if own is None else torch.where(own == foreseen, neighbour, own)
        return torch.where(chance.uniform(*foreseen.shape) < self.alpha, foreseen, wrong)


def _never(ids: Sequence[int], since: int) -> None:
    return None
