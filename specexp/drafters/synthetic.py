"""Drafts of a chosen quality, for testing and measuring the rest of the system apart from any draft model.

Two drafters, both from the target's own greedy text (foresight.py), spoilt at random: every drafted position is right with probability
alpha, independently of all others, as the theory of speculative decoding assumes (Leviathan et al. 2023, arXiv:2211.17192, section 3.2).

- SyntheticDrafter costs nothing per token (c = 0): what remains of the time is the target's, the verifier's and the loop's own.
- PlantedDrafter makes every pass of a real draft model, over the drafted tokens, and only then puts the planted token in the place of the
  model's own: the cost is the real draft's (and a few operations on single numbers), its quality the chosen one.

Verification is the same as ever, so the text stays the target's. What they do not promise: a speedup that anybody could have. They are told
the answer, and every token of theirs has the origin "draft:synthetic" or "draft:planted" in the records. A real draft's acceptance is not
independent from position to position. Greedy decoding only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Policy, Runner, Scores, Verdict
from specexp.decoding.room import within
from specexp.drafters.copying import without_logits
from specexp.drafters.foresight import Foresight, Spoiling


class ForeseeingDrafter(ABC):
    """policy: draft lengths. spoiling: how many of the tokens are right."""

    needs_trees = needs_hidden = False
    models: Mapping[str, Runner] = MappingProxyType({})
    stage: ClassVar[str]

    def __init__(self, foresight: Foresight, policy: Policy, spoiling: Spoiling):
        self.foresight, self.policy, self.spoiling = foresight, policy, spoiling

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """What is not to be timed: the target's text is decoded."""
        self.foresight.prepare(prompt, max_new_tokens)

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.foresight.start(prompt, max_new_tokens)
        self.policy.start()

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        length = min(self.policy.length(), self._bound(context, limit)) if limit else 0
        foreseen = self.foresight.ahead(context, length)
        return self._drafted(context, foreseen, chance) if len(foreseen) else empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        self.policy.observe(len(draft), len(verdict.path))

    def _bound(self, context: Context, limit: int) -> int:
        return limit

    @abstractmethod
    def _drafted(self, context: Context, foreseen: Tensor, chance: Chance) -> Draft:
        """A chain as long as `foreseen`, [n] ids of the target's own text, which it spoils."""


class SyntheticDrafter(ForeseeingDrafter):
    """Spoilt tokens at once, on the device: no model, no cost."""

    stage = "synthetic"

    def __init__(self, foresight: Foresight, policy: Policy, spoiling: Spoiling):
        super().__init__(foresight, without_logits(policy), spoiling)

    def _drafted(self, context: Context, foreseen: Tensor, chance: Chance) -> Draft:
        return Draft.chain(self.spoiling(foreseen, chance), stages=(self.stage,) * len(foreseen))


class PlantedDrafter(ForeseeingDrafter):
    """runner: the draft model, which is rolled out as ever over the tokens that are planted. Eager rollouts only: one that is captured as a
    whole draws by itself."""

    stage = "planted"

    def __init__(self, runner: Runner, foresight: Foresight, policy: Policy, spoiling: Spoiling):
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

    def _drafted(self, context: Context, foreseen: Tensor, chance: Chance) -> Draft:
        draft = self.runner.rollout(context, len(foreseen), _Planting(foreseen, self.spoiling), chance, self.policy.proceeds)
        draft.__dict__["stages"] = (self.stage,) * len(draft)  # this very draft: the runner's cache knows it by identity
        return draft if self.policy.entropy is None else draft.note(float(self.policy.entropy))


class _Planting:
    """In the place of a greedy `Sampling`, for one rollout: the model's own token is found, and gives way to the planted one."""

    is_greedy = True

    def __init__(self, foreseen: Tensor, spoiling: Spoiling):
        self._foreseen, self._spoiling = iter(foreseen), spoiling

    def propose(self, logits: Tensor, chance: Chance) -> tuple[Tensor, None]:
        own = logits.argmax(-1)
        return self._spoiling(next(self._foreseen).expand_as(own), chance, own), None
