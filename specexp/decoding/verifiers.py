"""Which drafted tokens survive, and which token the target adds: the rejection rule of speculative sampling.

Leviathan et al. 2023 (arXiv:2211.17192, Algorithm 1) and Chen et al. 2023 (arXiv:2302.01318, Algorithm 2) state one and the
same law; so does greedy matching, which is this rule with a one-hot p. Chains are verified vectorised and on the device;
trees node by node, which is also the legible form the vectorised one is tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Sampling, is_numpys


class RejectionVerifier:
    """Accept x with probability min(1, p(x)/q(x)); at the first refusal emit x ~ norm(max(0, p - q)); if none, x ~ p.

    The emitted text has exactly the target's law: sum_x min(p, q) + norm-residual mass is p, token by token.
    """

    lossless = True

    def __init__(self, sampling: Sampling):
        self.sampling = sampling

    def __call__(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        if draft.q is None or len(draft) == 0:
            return self.point_masses(draft, logits, chance) if draft.is_chain else self.tree_of_point_masses(draft, logits, chance)
        p = self.sampling(logits)
        return self.chain(draft, p, chance) if draft.is_chain else self.tree(draft, p, chance)

    def point_masses(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        """A chain with q(x) = 1: draw y ~ p at every row and keep x while y = x. [N + 1, V] logits.

        The same law for less work: y = x has probability p(x), and y given y != x is the residual's draw. At temperature 0
        the draw is argmax; the empty draft leaves the target's own token.
        """
        drawn, count = self._drawn(draft, logits, chance), 0
        for x, y in zip(draft.ids, drawn, strict=False):  # the last y stands behind all of them
            if x != y:
                break
            count += 1
        return Verdict(draft.path(count - 1), drawn[count])

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        """As above behind every node: draw y ~ p and go on at the child that is y (staged speculative decoding, arXiv:2308.04623)."""
        drawn, path, node = self._drawn(draft, logits, chance), [], ROOT
        child_of = dict(reversed([*zip(zip(draft.parents, draft.ids, strict=True), range(len(draft)), strict=True)]))
        while (child := child_of.get((node, drawn[node + 1]))) is not None:
            path.append(child)
            node = child
        return Verdict(tuple(path), drawn[node + 1])

    def _drawn(self, draft: Draft, logits: Tensor, chance: Chance) -> list[int]:
        """y ~ p at every row, on the host."""
        if self.sampling.is_greedy and is_numpys(logits):
            return logits.numpy().argmax(-1).tolist()
        return draft.fetch(self.sampling.propose(logits, chance)[0])

    def chain(self, draft: Draft, p: Tensor, chance: Chance) -> Verdict:
        """p: [N + 1, V]. No host sync but the one copy at the end, which brings the drafted ids along."""
        n, q, x = len(draft), draft.distributions(p), draft.tokens[:, None]
        kept = chance.accept(p[:n].gather(1, x)[:, 0], q.gather(1, x)[:, 0])
        accepted = kept.cumprod(0).sum(0, keepdim=True)  # [1]
        q_next = q.index_select(0, accepted.clamp(max=n - 1)) * (accepted < n)[:, None]  # nothing was refused behind x_N
        token = chance.draw(self.residual(p.index_select(0, accepted), q_next))
        count, token_id = draft.fetch(accepted, token)
        return Verdict(draft.path(count - 1), token_id)

    def tree(self, draft: Draft, p: Tensor, chance: Chance) -> Verdict:
        """Recursive rejection: each refused sibling takes its q out of p before the next is tried.

        Exact with and without replacement, since each node's q is the law it was drawn from given its refused siblings
        (SpecInfer, arXiv:2305.09781, Algorithm 2; Sequoia, arXiv:2402.12374).
        """
        q, path, node = draft.distributions(p), [], ROOT
        while True:
            row = p[node + 1]
            for child in draft.children(node):
                x = draft.ids[child]
                if chance.accept(row[x], q[child, x]):
                    path.append(child)
                    node = child
                    break
                row = self.residual(row, q[child])
            else:
                return Verdict(tuple(path), int(chance.draw(row)))

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        """norm(max(0, p - q)) over the last axis; p where rounding leaves nothing (p and q equal up to rounding)."""
        rest = (p - q).clamp_min(0)
        total = rest.sum(-1, keepdim=True)
        return torch.where(total > 0, rest / total, p)


class SkipSampleAdjustment(RejectionVerifier):
    """After a refusal resample from p itself, as an option of the original does. Lossy: refused tokens come back too often."""

    lossless = False

    def point_masses(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        return self.chain(draft, self.sampling(logits), chance) if len(draft) else super().point_masses(draft, logits, chance)

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        return self.tree(draft, self.sampling(logits), chance)

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        return p
