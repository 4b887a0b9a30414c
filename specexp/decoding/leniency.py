"""Lenient verification: keep also what the model finds likely enough, not only what it would have said itself. Lossy.

Cascade Speculative Drafting (Chen et al. 2023, arXiv:2312.11462) uses it between drafts, never at the top, where it would change the text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Sampling
from specexp.decoding.verifiers import RejectionVerifier


class LenientVerifier(RejectionVerifier):
    """Keep x if it is what the model draws, or if p(x) > q(x) / leniency; leniency 1 is as strict as the lossless rule.

    p and q are the models' own probabilities (softmax, temperature 1) in a greedy or deterministic draft; q is 1 where the draft does not
    say (`Draft.confidence`): leniency 2 or less then changes nothing, since p > 1/2 is the argmax anyway. Drafts with a law q of their own
    are judged with q / leniency in place of q (their p and q after temperature, top-k and nucleus), and so are trees, point masses too.
    """

    lossless = False

    def __init__(self, sampling: Sampling, leniency: float = 4.0):
        if leniency < 1:
            raise ValueError(f"leniency={leniency} would refuse more than the lossless rule; give 1 (as strict as it) or more.")
        super().__init__(sampling)
        self.leniency = leniency

    def point_masses(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        n, drawn = len(draft), self.sampling.propose(logits, chance)[0]
        p = logits[:n].float().softmax(-1).gather(1, draft.tokens[:, None])[:, 0]
        q = torch.ones_like(p) if draft.confidence is None else draft.confidence
        kept = drawn[:n] == draft.tokens
        if self.leniency > 1:
            kept |= p * self.leniency > q
        accepted = kept.cumprod(0).sum(0, keepdim=True)  # [1]
        count, token = draft.fetch(accepted, drawn.index_select(0, accepted))
        return Verdict(draft.path(count - 1), token)

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        return self.tree(draft, self.sampling(logits), chance)

    def chain(self, draft: Draft, p: Tensor, chance: Chance) -> Verdict:
        return super().chain(draft.with_q(draft.q / self.leniency), p, chance)

    def tree(self, draft: Draft, p: Tensor, chance: Chance) -> Verdict:
        return super().tree(draft.with_q(draft.distributions(p) / self.leniency), p, chance)
