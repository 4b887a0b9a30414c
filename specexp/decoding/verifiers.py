"""The rules that decide which drafted tokens are kept, and which token the target adds.

The rejection rule of speculative sampling is lossless: the text has exactly the distribution that the target alone would give it. Leviathan
et al. 2023 (arXiv:2211.17192, Algorithm 1) and Chen et al. 2023 (arXiv:2302.01318, Algorithm 2) state the same rule. Under greedy decoding
p is 1 for one id, and the rule keeps the drafted tokens that equal the target's own.

The other rules keep more tokens and change the text, so their `lossless` is False. `LenientVerifier` is the leniency of Cascade Speculative
Drafting (Chen et al. 2023, arXiv:2312.11462), which is meant for draft models that review each other. `TypicalAcceptance` is Medusa's rule
(Cai et al. 2024, arXiv:2401.10774, section 2.3.1; after truncation sampling, Hewitt et al. 2022).

A chain is verified on the device in one vectorised step, a tree node by node. The tests check the first form against the second, which is
easier to read. The rules know logits and drafts, and nothing of how either was made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Draws, is_numpys


class RejectionVerifier:
    """Accept each drafted x with probability min(1, p(x)/q(x)). At the first refusal emit x ~ norm(max(0, p - q)) instead; if nothing was
    refused, emit one more x ~ p.

    Every token then has exactly the distribution p. For example, with p = (0.5, 0.5) and q = (0.8, 0.2), a drafted 0 is accepted with
    probability 0.5 / 0.8 and a drafted 1 always, so the accepted tokens have the probabilities min(p, q) = (0.5, 0.2). The remaining 0.3
    are refusals, after which norm(max(0, p - q)) = (0, 1) is drawn: (0.5, 0.2) + 0.3 * (0, 1) = (0.5, 0.5) = p.
    """

    lossless = True

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        if draft.q is None or len(draft) == 0:
            return self.point_masses(draft, logits, draws) if draft.is_chain else self.tree_of_point_masses(draft, logits, draws)
        p = draws.law(logits)
        return self.chain(draft, p, draws) if draft.is_chain else self.tree(draft, p, draws)

    def point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        """Verify a chain of point masses (q(x) = 1) by [N + 1, V] logits: draw y ~ p at every row, and keep x as long as y = x.

        This gives the same distribution with less work: y = x has the probability p(x) of acceptance, and y given y != x has the
        distribution of the residual. At temperature 0 the draw is the argmax. Of an empty draft only the target's own token remains.
        """
        drawn, count = self._drawn(draft, logits, draws), 0
        for x, y in zip(draft.ids, drawn, strict=False):  # there is one y more than there are x
            if x != y:
                break
            count += 1
        return Verdict(draft.path(count - 1), drawn[count])

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        """Verify a tree of point masses in the same way: draw y ~ p at the node, and go on at the child whose token is y (staged
        speculative decoding, arXiv:2308.04623)."""
        drawn, path, node = self._drawn(draft, logits, draws), [], ROOT
        child_of = dict(reversed([*zip(zip(draft.parents, draft.ids, strict=True), range(len(draft)), strict=True)]))
        while (child := child_of.get((node, drawn[node + 1]))) is not None:
            path.append(child)
            node = child
        return Verdict(tuple(path), drawn[node + 1])

    def _drawn(self, draft: Draft, logits: Tensor, draws: Draws) -> list[int]:
        """Draw y ~ p at every row, and return the ids on the host."""
        if draws.is_greedy and is_numpys(logits):
            return logits.numpy().argmax(-1).tolist()
        return draft.fetch(draws.token(logits)[0])

    def chain(self, draft: Draft, p: Tensor, draws: Draws) -> Verdict:
        """Verify a chain. p: [N + 1, V]. The host waits for the device only once, for the copy at the end, which brings the drafted ids
        along."""
        n, q, x = len(draft), draft.distributions(p), draft.tokens[:, None]
        kept = draws.accept(p[:n].gather(1, x)[:, 0], q.gather(1, x)[:, 0])
        accepted = kept.cumprod(0).sum(0, keepdim=True)  # [1]
        q_next = q.index_select(0, accepted.clamp(max=n - 1)) * (accepted < n)[:, None]  # after x_N nothing was refused, so q is 0
        token = draws.draw(self.residual(p.index_select(0, accepted), q_next))
        count, token_id = draft.fetch(accepted, token)
        return Verdict(draft.path(count - 1), token_id)

    def tree(self, draft: Draft, p: Tensor, draws: Draws) -> Verdict:
        """Verify a tree by recursive rejection: after a sibling was refused, p becomes norm(max(0, p - q)), and the next sibling is tried
        against that.

        This is exact whether siblings were drawn with or without replacement, because each node's q is the distribution it was drawn from
        given its refused siblings (SpecInfer, arXiv:2305.09781, Algorithm 2; Sequoia, arXiv:2402.12374).
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
        """Return norm(max(0, p - q)) over the last axis, or p where nothing is left of that because p and q are equal up to rounding."""
        rest = (p - q).clamp_min(0)
        total = rest.sum(-1, keepdim=True)
        return torch.where(total > 0, rest / total, p)


class AnotherModels(RejectionVerifier):
    """The same rule for a method that decodes with another model than the target, as the draft model alone. The text is then that other
    model's, so the method is not lossless."""

    lossless = False


class SkipSampleAdjustment(RejectionVerifier):
    """After a refusal draw from p itself instead of the residual, as an option of the original implementation does. This is lossy: a token
    that was just refused may be drawn again, so such tokens come too often."""

    lossless = False

    def point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return self.chain(draft, draws.law(logits), draws) if len(draft) else super().point_masses(draft, logits, draws)

    def tree_of_point_masses(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return self.tree(draft, draws.law(logits), draws)

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        return p


class LenientVerifier(RejectionVerifier):
    """Keep x if it is the token that the model draws itself, or if p(x) > q(x) / leniency. Leniency 1 is as strict as the lossless rule.

    In a chain of point masses, p and q are the models' own probabilities (softmax at temperature 1). q is the draft's `confidence`, or 1 if
    it has none; leniency 2 or less then changes nothing in greedy decoding, because a token with p > 1/2 is the argmax anyway. A draft that
    was drawn from distributions q, and every tree, is judged by the rejection rule with q / leniency in place of q, where p and q are taken
    after temperature, top-k and nucleus.
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
    """The same rule, always greedy, whatever the generation's sampling. It is for reviews between draft models, whose result is only a
    proposal for the target and need not have any particular distribution."""

    def __init__(self, leniency: float = 3.0):
        super().__init__(leniency)

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        return super().__call__(draft, logits, draws.greedily())


class TypicalAcceptance:
    """Accept x if p(x) > min(epsilon, delta * exp(-H(p))), where p is the distribution that is sampled from and H its entropy in nats. The
    longest path of accepted tokens is kept, of equally long ones the likelier, and the token after it is drawn from p.

    epsilon: the hard threshold, above which every token is accepted. delta: the factor of the threshold that entropy lowers; the paper
    takes about the square root of epsilon. For example, with epsilon 0.09 and delta 0.3 the threshold is 0.09 where H = 1 nat (0.3 *
    exp(-1) = 0.11 is more) and 0.041 where H = 2. The rule takes chains and trees of any drafter and does not look at their q.
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
        """Return the threshold of each of [n, V] distributions, [n]."""
        entropy = torch.special.entr(p).sum(-1)
        return (self.delta * (-entropy).exp()).clamp(max=self.epsilon)

    def _longest(self, draft: Draft, p: Tensor) -> tuple[int, ...]:
        rows = torch.tensor([parent + 1 for parent in draft.parents], device=p.device)
        likely = p[rows, draft.tokens]
        accepted, logs = torch.stack([(likely > self.thresholds(p)[rows]).to(likely.dtype), likely.log()]).tolist()
        best, value = ROOT, (0, 0.0)
        kept: dict[int, tuple[int, float]] = {ROOT: value}  # node -> (length, log-likelihood) of its path, if all of it is accepted
        for node, parent in enumerate(draft.parents):
            if accepted[node] and parent in kept:
                kept[node] = (kept[parent][0] + 1, kept[parent][1] + logs[node])
                if kept[node] > value:
                    best, value = node, kept[node]
        return draft.path(best)
