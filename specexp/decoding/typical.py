"""Typical acceptance (Medusa, Cai et al. 2024, arXiv:2401.10774, section 2.3.1; after truncation sampling, Hewitt et al. 2022). Lossy.

Keeps what is likely enough where the target stands, likelier where the target is sure: no draw decides over a drafted token, so the
text has not the target's law. At temperature 0 only the argmax is likely at all, and the rule is greedy matching.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Sampling


class TypicalAcceptance:
    """Accept x iff p(x) > min(epsilon, delta * exp(-H(p))), p being the law that is sampled from and H its entropy in nats; keep the
    longest path of accepted tokens, of equally long ones the likelier; the token behind it is drawn from p.

    epsilon: the hard threshold, above which every token is accepted. delta: the one that entropy lowers; the paper takes about the root of
    epsilon. Any drafter's chains and trees; what law they were drawn from plays no part.
    """

    lossless = False

    def __init__(self, sampling: Sampling, epsilon: float = 0.09, delta: float = 0.3):
        if not 0 < epsilon < 1 or delta <= 0:
            raise ValueError(f"epsilon={epsilon}, delta={delta} do not fit; give 0 < epsilon < 1 and delta > 0 (0.09 and 0.3).")
        self.sampling, self.epsilon, self.delta = sampling, epsilon, delta

    def __call__(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        p = self.sampling(logits)
        path = self._longest(draft, p) if len(draft) else ()
        return Verdict(path, int(chance.draw(p[path[-1] + 1 if path else 0])))

    def thresholds(self, p: Tensor) -> Tensor:
        """[n, V] laws -> [n]."""
        entropy = torch.special.entr(p).sum(-1)
        return (self.delta * (-entropy).exp()).clamp(max=self.epsilon)

    def _longest(self, draft: Draft, p: Tensor) -> tuple[int, ...]:
        rows = torch.tensor([parent + 1 for parent in draft.parents], device=p.device)
        likely = p[rows, draft.tokens]
        accepted, logs = torch.stack([(likely > self.thresholds(p)[rows]).to(likely.dtype), likely.log()]).tolist()
        best, value = ROOT, (0, 0.0)
        kept: dict[int, tuple[int, float]] = {ROOT: value}  # (length, log-likelihood) of the paths to accepted nodes
        for node, parent in enumerate(draft.parents):
            if accepted[node] and parent in kept:
                kept[node] = (kept[parent][0] + 1, kept[parent][1] + logs[node])
                if kept[node] > value:
                    best, value = node, kept[node]
        return draft.path(best)
