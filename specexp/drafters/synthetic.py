"""Drafts of a chosen quality, for testing and measuring the rest of the system apart from any draft model.

Two drafters, both from the target's own greedy text (foresight.py), spoilt at random: every drafted position is right with probability
alpha, independently of all others, as the theory of speculative decoding assumes (Leviathan et al. 2023, arXiv:2211.17192, section 3.2).

- SyntheticDrafter costs nothing per token (c = 0): what remains of the time is the target's, the verifier's and the loop's own.
- PlantedDrafter makes every pass of a real draft model, over the drafted tokens, and only then puts the planted token in the place of the
  model's own: the cost is the real draft's (and a few operations on single numbers), its quality the chosen one.

Verification is the same as ever, so the text stays the target's. What they do not promise: a speedup that anybody could have. They are told
the answer, and every token of theirs has the origin "draft:synthetic" or "draft:planted" in the records. A real draft's acceptance is not
independent from position to position. Greedy decoding only.

The target's own greedy text, known before it is decoded: what test drafters draft from.

It is decoded autoregressively by a runner of its own, once per prompt, before any clock starts where whoever times calls `prepare`
(generation.py does), else in `start`. So it costs nothing that is measured as decoding, and no drafter with it is one anybody could use.
Knows greedy text only: what will be drawn under sampling cannot be known beforehand.
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
    """policy: draft lengths. spoiling: how many of the tokens are right."""

    stage: ClassVar[str]

    def __init__(self, foresight: Foresight, policy: LengthRule, spoiling: Spoiling):
        self.foresight, self.policy, self.spoiling = foresight, policy, spoiling

    def check(self, sampling: Sampling) -> None:
        """Under sampling the text cannot be foreseen."""
        if not sampling.is_greedy:
            raise UserError(
                f"sampling.temperature={sampling.temperature} draws texts that nobody can foresee, and this method drafts from the "
                "target's own; choose sampling=greedy, or another method."
            )

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """What is not to be timed: the target's text is decoded."""
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
        """A chain as long as `foreseen`, [n] ids of the target's own text, which it spoils."""


class SyntheticDrafter(ForeseeingDrafter):
    """Spoilt tokens at once, on the device: no model, no cost."""

    stage = "synthetic"

    def __init__(self, foresight: Foresight, policy: LengthRule, spoiling: Spoiling):
        super().__init__(foresight, without_logits(policy), spoiling)

    def _drafted(self, context: Context, foreseen: Tensor, draws: Draws) -> Draft:
        return Draft.chain(self.spoiling(foreseen, draws), stages=(self.stage,) * len(foreseen))


class PlantedDrafter(ForeseeingDrafter):
    """runner: the draft model, which is rolled out as ever over the tokens that are planted. Eager rollouts only: one that is captured as a
    whole draws by itself."""

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
        draft.__dict__["stages"] = (self.stage,) * len(draft)  # this very draft: the runner's cache knows it by identity
        return draft if self.policy.entropy is None else draft.note(float(self.policy.entropy))


class _Planting(Draws):
    """For one rollout: the model's own token is found, and gives way to the planted one."""

    def __init__(self, draws: Draws, foreseen: Tensor, spoiling: Spoiling):
        self.__dict__.update(draws.__dict__)
        self.is_greedy = False  # no runner's shortcut for greedy drafts may draw by itself
        self._foreseen, self._spoiling, self._draws = iter(foreseen), spoiling, draws

    def token(self, logits: Tensor) -> tuple[Tensor, None]:
        own = logits.argmax(-1)
        return self._spoiling(next(self._foreseen).expand_as(own), self._draws, own), None


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
    """alpha: probability that a token stays what was foreseen. UserError for one outside [0, 1].
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={self.alpha} is no probability; give the share of drafted tokens that are to be accepted, from 0 to 1.")

    def __call__(self, foreseen: Tensor, draws: Draws, own: Tensor | None = None) -> Tensor:
        """[n] each token kept or not, independently; else another one: `own` where that differs, or a neighbouring id. No sync."""
        neighbour = torch.where(foreseen == 0, 1, foreseen - 1)
        wrong = neighbour if own is None else torch.where(own == foreseen, neighbour, own)
        return torch.where(draws.uniform(*foreseen.shape) < self.alpha, foreseen, wrong)


def _never(ids: Sequence[int], since: int) -> None:
    return None
