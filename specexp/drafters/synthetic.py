"""Drafters of a chosen quality, for testing and measuring everything but the draft model. They work in greedy decoding only.

Both draft from the target's own greedy text, which is decoded beforehand (`Foresight`), and replace some of its tokens at random by wrong
ones (`Spoiling`). Every drafted token is right with probability alpha, independently of all others, as the theory of speculative decoding
assumes (Leviathan et al. 2023, arXiv:2211.17192, section 3.2).

- `SyntheticDrafter` asks no model, so drafting costs nothing per token (c = 0), and the time that remains is that of the target, the
  verifier and the loop.
- `PlantedDrafter` runs every pass of a real draft model over the drafted tokens, and only then puts the chosen token in the place of the
  model's own. Its cost is that of the real draft model (and a few operations on single numbers), its quality the chosen one.

Verification is the usual one, so the text stays the target's. The speedup is not one that a user could have, because these drafters are
told the answer; so in the records every token of theirs has the origin "draft:synthetic" or "draft:planted". The acceptance of a real draft
model, moreover, is not independent from position to position.

The target's text is decoded autoregressively, once per prompt, by a runner of its own. The experiment calls `prepare` before it starts the
clock, so this is not measured as decoding; if nobody calls it, `start` does the same. Text that will be drawn under sampling cannot be
known beforehand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Runner, Verdict, within
from specexp.decoding.sampling import GREEDY, Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.copying import without_logits
from specexp.drafters.model import NoDraft
from specexp.errors import UserError


class ForeseeingDrafter(Drafter, ABC):
    """What both drafters share. foresight: the target's text. policy: the draft lengths. spoiling: which of the tokens are replaced."""

    stage: ClassVar[str]

    def __init__(self, foresight: Foresight, policy: LengthRule, spoiling: Spoiling):
        self.foresight, self.policy, self.spoiling = foresight, policy, spoiling

    def check(self, sampling: Sampling) -> None:
        """Raise UserError under sampling, where the text cannot be known beforehand."""
        if not sampling.is_greedy:
            raise UserError(
                f"sampling.temperature={sampling.temperature} draws texts that nobody can foresee, and this method drafts from the "
                "target's own; choose sampling=greedy, or another method."
            )

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Decode the target's text, which is not to be timed."""
        self.foresight.prepare(prompt, max_new_tokens)

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.foresight.start(prompt, max_new_tokens)
        self.policy.start()

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        length = min(self.policy.length(), self._bound(context, limit)) if limit else 0
        foreseen = self.foresight.ahead(context, length)
        return self._drafted(context, foreseen, draws) if len(foreseen) else empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))

    def _bound(self, context: Context, limit: int) -> int:
        return limit

    @abstractmethod
    def _drafted(self, context: Context, foreseen: Tensor, draws: Draws) -> Draft:
        """Return a chain as long as `foreseen`, the [n] next ids of the target's own text, with some of them replaced."""


class SyntheticDrafter(ForeseeingDrafter):
    """Drafts all tokens at once, on the device, without a model."""

    stage = "synthetic"

    def __init__(self, foresight: Foresight, policy: LengthRule, spoiling: Spoiling):
        super().__init__(foresight, without_logits(policy), spoiling)

    def _drafted(self, context: Context, foreseen: Tensor, draws: Draws) -> Draft:
        return Draft.chain(self.spoiling(foreseen, draws), stages=(self.stage,) * len(foreseen))


class PlantedDrafter(ForeseeingDrafter):
    """Drafts at the cost of a real draft model. runner: the draft model, which is rolled out as usual, over the tokens that are planted.
    The rollout runs step by step, because one that is captured as a whole chooses its tokens itself."""

    stage = "planted"

    def __init__(self, runner: Runner, foresight: Foresight, policy: LengthRule, spoiling: Spoiling):
        super().__init__(foresight, policy, spoiling)
        self.runner = runner

    @property
    def models(self) -> dict[str, Runner]:
        return {"draft": self.runner}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)
        super().start(prompt, max_new_tokens)

    def _bound(self, context: Context, limit: int) -> int:
        return within(limit, self.runner.room(context))

    def _drafted(self, context: Context, foreseen: Tensor, draws: Draws) -> Draft:
        draft = self.runner.rollout(context, len(foreseen), _Planting(draws, foreseen, self.spoiling), self.policy.proceeds)
        draft.__dict__["stages"] = (self.stage,) * len(draft)  # not a copy: the runner recognises its draft by identity
        return draft if self.policy.entropy is None else draft.note(float(self.policy.entropy))


class _Planting(Draws):
    """The draws of one rollout: the model's own token is computed, and then the planted one is returned instead."""

    def __init__(self, draws: Draws, foreseen: Tensor, spoiling: Spoiling):
        self.__dict__.update(draws.__dict__)
        self.is_greedy = False  # so that no runner takes its faster way for greedy drafts, in which it chooses the tokens itself
        self._foreseen, self._spoiling, self._draws = iter(foreseen), spoiling, draws

    def token(self, logits: Tensor) -> tuple[Tensor, None]:
        own = logits.argmax(-1)
        return self._spoiling(next(self._foreseen).expand_as(own), self._draws, own), None


class Foresight:
    """The target's own greedy text, decoded beforehand. oracle: a runner of the target's weights with a cache of its own.

    In 16 bits two tokens may be so close that a pass over more rows decides differently between them, and the text then leaves what was
    decoded beforehand. From there on the drafts are empty, and the rest of that text is decoded autoregressively.
    """

    def __init__(self, oracle: Runner):
        self.oracle = oracle
        self._known: tuple[tuple[int, ...], int] | None = None  # the prompt and the length of the text that was decoded last
        self._ids: list[int] = []
        self._tokens = torch.empty(0, dtype=torch.int64)
        self._begin: int | None = None  # where the generated text begins in a context
        self._agreed = 0  # how many ids of the text so far were compared and are as foreseen

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Decode the text of this prompt, unless it is the one that was decoded last."""
        wanted = (tuple(prompt), max_new_tokens)
        if wanted == self._known:
            return
        alone = Decoder(self.oracle, NoDraft(), RejectionVerifier())
        draws = Draws(GREEDY, (), self.oracle.facts.device)
        with torch.inference_mode():
            self._ids = [token for step in alone.generate(prompt, max_new_tokens, _never, draws) for token in step.tokens]
            self._tokens = torch.tensor(self._ids, dtype=torch.int64, device=self.oracle.facts.device)
        self._known = wanted

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.prepare(prompt, max_new_tokens)
        self._begin, self._agreed = None, 0

    def ahead(self, context: Context, length: int) -> Tensor:
        """Return the next `length` tokens that the target will emit after the context, fewer at the end of the text, and none if the text
        has left what was foreseen."""
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
    """Replaces some tokens by wrong ones. alpha: the probability that a token stays right. Raises UserError for one outside [0, 1]."""

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={self.alpha} is no probability; give the share of drafted tokens that are to be accepted, from 0 to 1.")

    def __call__(self, foreseen: Tensor, draws: Draws, own: Tensor | None = None) -> Tensor:
        """Return [n] tokens, each of which is kept with probability alpha, independently of the others. A wrong one is `own` if that
        differs from the right one, and otherwise a neighbouring id. The host does not wait for the device."""
        neighbour = torch.where(foreseen == 0, 1, foreseen - 1)
        wrong = neighbour if own is None else torch.where(own == foreseen, neighbour, own)
        return torch.where(draws.uniform(*foreseen.shape) < self.alpha, foreseen, wrong)


def _never(ids: Sequence[int], since: int) -> None:
    return None
