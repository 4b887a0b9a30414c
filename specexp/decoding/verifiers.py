"""Which drafted tokens survive, and which token the target adds.

The rejection rule of speculative sampling is lossless: Leviathan et al. 2023 (arXiv:2211.17192, Algorithm 1) and Chen et al. 2023
(arXiv:2302.01318, Algorithm 2) state one and the same law, and greedy matching is this rule with a one-hot p. Chains are verified
vectorised and on the device; trees node by node, which is also the legible form that the vectorised one is tested against.

The other rules keep more and change the text, and say so (`lossless = False`): Cascade Speculative Drafting's leniency (Chen et al. 2023,
arXiv:2312.11462), meant for reviews between drafts; and Medusa's typical acceptance (Cai et al. 2024, arXiv:2401.10774, section 2.3.1;
after truncation sampling, Hewitt et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Draws, is_numpys


class RejectionVerifier:
    """Accept x with probability min(1, p(x)/q(x)); at the first refusal emit x ~ norm(max(0, p - q)); if none, x ~ p.

    The emitted text has exactly the target's law: sum_x min(p, q) + norm-residual mass is p, token by token.
    """

    lossless = True

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        if draft.q is None or len(draft) == 0:
            return self.point_masses(draft, logits, draws) if draft.is_chain else self.tree_of_point_masses(draft, logits, draws)
        p = draws.law(logits)
        return self.chain(draft, p, draws) if draft.is_chain else self.tree(draft, p, draws)

    def point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        """A chain with q(x) = 1: draw y ~ p at every row and keep x while y = x. [N + 1, V] logits.

        The same law for less work: y = x has probability p(x), and y given y != x is the residual's draw. At temperature 0
        the draw is argmax; the empty draft leaves the target's own token.
        """
        drawn, count = self._drawn(draft, logits, draws), 0
        for x, y in zip(draft.ids, drawn, strict=False):  # the last y stands behind all of them
            if x != y:
                break
            count += 1
        return Verdict(draft.path(count - 1), drawn[count])

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        """As above behind every node: draw y ~ p and go on at the child that is y (staged speculative decoding, arXiv:2308.04623)."""
        drawn, path, node = self._drawn(draft, logits, draws), [], ROOT
        child_of = dict(reversed([*zip(zip(draft.parents, draft.ids, strict=True), range(len(draft)), strict=True)]))
        while (child := child_of.get((node, drawn[node + 1]))) is not None:
            path.append(child)
            node = child
        return Verdict(tuple(path), drawn[node + 1])

    def _drawn(self, draft: Draft, logits: Tensor, draws: Draws) -> list[int]:
        """y ~ p at every row, on the host."""
        if draws.is_greedy and is_numpys(logits):
            return logits.numpy().argmax(-1).tolist()
        return draft.fetch(draws.token(logits)[0])

    def chain(self, draft: Draft, p: Tensor, draws: Draws) -> Verdict:
        """p: [N + 1, V]. No host sync but the one copy at the end, which brings the drafted ids along."""
        n, q, x = len(draft), draft.distributions(p), draft.tokens[:, None]
        kept = draws.accept(p[:n].gather(1, x)[:, 0], q.gather(1, x)[:, 0])
        accepted = kept.cumprod(0).sum(0, keepdim=True)  # [1]
        q_next = q.index_select(0, accepted.clamp(max=n - 1)) * (accepted < n)[:, None]  # nothing was refused behind x_N
        token = draws.draw(self.residual(p.index_select(0, accepted), q_next))
        count, token_id = draft.fetch(accepted, token)
        return Verdict(draft.path(count - 1), token_id)

    def tree(self, draft: Draft, p: Tensor, draws: Draws) -> Verdict:
        """Recursive rejection: each refused sibling takes its q out of p before the next is tried.

        Exact with and without replacement, since each node's q is the law it was drawn from given its refused siblings
        (SpecInfer, arXiv:2305.09781, Algorithm 2; Sequoia, arXiv:2402.12374).
        """
        q, path, node = draft.distributions(p), [], ROOT
        while True:
            row = p[node + 1]
            for child in draft.children(node):
                x = draft.ids[child]
                if draws.accept(row[x], q[child, x]):
                    path.append(child)
                    node = child
                    break
                row = self.residual(row, q[child])
            else:
                return Verdict(tuple(path), int(draws.draw(row)))

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        """norm(max(0, p - q)) over the last axis; p where rounding leaves nothing (p and q equal up to rounding)."""
        rest = (p - q).clamp_min(0)
        total = rest.sum(-1, keepdim=True)
        return torch.where(total > 0, rest / total, p)


class AnotherModels(RejectionVerifier):
    """The same rule where the text is not the target's own, as the draft model decodes alone."""

    lossless = False


class SkipSampleAdjustment(RejectionVerifier):
    """After a refusal resample from p itself, as an option of the original does. Lossy: refused tokens come back too often."""

    lossless = False

    def point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return self.chain(draft, draws.law(logits), draws) if len(draft) else super().point_masses(draft, logits, draws)

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return self.tree(draft, draws.law(logits), draws)

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        return p


class LenientVerifier(RejectionVerifier):
    """Keep x if it is what the model draws, or if p(x) > q(x) / leniency; leniency 1 is as strict as the lossless rule.

    p and q are the models' own probabilities (softmax, temperature 1) in a greedy or deterministic draft; q is 1 where the draft does not
    say (`Draft.confidence`): leniency 2 or less then changes nothing, since p > 1/2 is the argmax anyway. Drafts with a law q of their own
    are judged with q / leniency in place of q (their p and q after temperature, top-k and nucleus), and so are trees, point masses too.
    """

    lossless = False

    def __init__(self, leniency: float = 4.0):
        if leniency < 1:
            raise ValueError(f"leniency={leniency} would refuse more than the lossless rule; give 1 (as strict as it) or more.")
        self.leniency = leniency

    def point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        n, drawn = len(draft), draws.token(logits)[0]
        p = logits[:n].float().softmax(-1).gather(1, draft.tokens[:, None])[:, 0]
        q = torch.ones_like(p) if draft.confidence is None else draft.confidence
        kept = drawn[:n] == draft.tokens
        if self.leniency > 1:
            kept |= p * self.leniency > q
        accepted = kept.cumprod(0).sum(0, keepdim=True)  # [1]
        count, token = draft.fetch(accepted, drawn.index_select(0, accepted))
        return Verdict(draft.path(count - 1), token)

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return self.tree(draft, draws.law(logits), draws)

    def chain(self, draft: Draft, p: Tensor, draws: Draws) -> Verdict:
        return super().chain(draft.with_q(draft.q / self.leniency), p, draws)

    def tree(self, draft: Draft, p: Tensor, draws: Draws) -> Verdict:
        return super().tree(draft.with_q(draft.distributions(p) / self.leniency), p, draws)


class LenientArgmax(LenientVerifier):
    """The same, greedy whatever the generation's sampling: between drafts, where what is handed up is no sample of anything."""

    def __init__(self, leniency: float = 3.0):
        super().__init__(leniency)

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return super().__call__(draft, logits, draws.greedily())


class TypicalAcceptance:
    """Accept x iff p(x) > min(epsilon, delta * exp(-H(p))), p being the law that is sampled from and H its entropy in nats; keep the
    longest path of accepted tokens, of equally long ones the likelier; the token behind it is drawn from p.

    epsilon: the hard threshold, above which every token is accepted. delta: the one that entropy lowers; the paper takes about the root of
    epsilon. Any drafter's chains and trees; what law they were drawn from plays no part.
    """

    lossless = False

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3):
        if not 0 < epsilon < 1 or delta <= 0:
            raise ValueError(f"epsilon={epsilon}, delta={delta} do not fit; give 0 < epsilon < 1 and delta > 0 (0.09 and 0.3).")
        self.epsilon, self.delta = epsilon, delta

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        p = draws.law(logits)
        path = self._longest(draft, p) if len(draft) else ()
        return Verdict(path, int(draws.draw(p[path[-1] + 1 if path else 0])))

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
