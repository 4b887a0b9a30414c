"""The drafter of speculative sampling, a smaller model that drafts token by token (Leviathan et al. 2023, arXiv:2211.17192; Chen et al.
2023, arXiv:2302.01318), and the drafter that proposes nothing, with which decoding is autoregressive.

How long a draft is, and how it is verified, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Runner, Verdict, within
from specexp.decoding.sampling import Draws


class ModelDrafter(Drafter):
    """Drafts chains of the length that the policy asks for. Their tokens are drawn by the same sampling rule as the target's."""

    def __init__(self, runner: Runner, policy: LengthRule):
        self.runner, self.policy = runner, policy

    @property
    def models(self) -> dict[str, Runner]:
        return {"draft": self.runner}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)
        self.policy.start()

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        if limit == 0:  # in the first round, for one: the draft model's own prefill waits until it is needed
            return empty_draft(context.device)
        length = min(self.policy.length(), within(limit, self.runner.room(context)))
        draft = self.runner.rollout(context, length, draws, self.policy.proceeds)
        return draft if self.policy.entropy is None else draft.note(float(self.policy.entropy))

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))


class NoDraft(Drafter):
    """Proposes nothing, so that decoding is autoregressive."""
