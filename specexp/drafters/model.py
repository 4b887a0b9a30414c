"""A smaller model drafts: a chain by rolling it out, or a tree level by level.

Leviathan et al. 2023 (arXiv:2211.17192) and Chen et al. 2023 (arXiv:2302.01318) draft chains; SpecInfer (arXiv:2305.09781)
and Sequoia (arXiv:2402.12374) trees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.protocols import Policy, Runner, Scores, Verdict
from specexp.decoding.sampling import Sampling


class ModelDrafter:
    """Chains of the length the policy asks for, drawn by the same sampling rule as the target's."""

    needs_trees = False

    def __init__(self, runner: Runner, policy: Policy, sampling: Sampling):
        self.runner, self.policy, self.sampling = runner, policy, sampling

    @property
    def models(self) -> dict[str, Runner]:
        return {"draft": self.runner}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)
        self.policy.start()

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        if limit == 0:  # round 0: the draft model's own prefill waits until it is needed
            return empty_draft(context.device)
        length = min(self.policy.length(), limit)
        draft = self.runner.rollout(context, length, self.sampling, chance, self.policy.proceeds)
        return draft if self.policy.entropy is None else draft.note(float(self.policy.entropy))

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        self.policy.observe(len(draft), len(verdict.path))


class TreeDrafter(ModelDrafter):
    """A tree of fixed shape: every node of level d gets branching[d] children; one draft pass per level.

    Siblings are drawn without replacement, each with the law it was drawn from given its earlier siblings (Sequoia), which is
    what the recursive rejection rule expects. The shape never depends on what was drawn. Greedy: the best `branching` ids.
    """

    needs_trees = True

    def __init__(self, runner: Runner, branching: Sequence[int], sampling: Sampling):
        if not runner.trees:
            raise ValueError(f"{runner.describe()} cannot grow token trees; choose a method that drafts chains (method=speculative).")
        if not branching or min(branching) < 1:
            raise ValueError(f"branching={list(branching)} is not a tree; give the number of children per level, such as [2,2,1].")
        self.runner, self.branching, self.sampling = runner, tuple(branching), sampling

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        draft, level = empty_draft(context.device), [ROOT]
        for width in self.branching[:limit]:
            logits = self.runner.logits(context, draft, rows=len(level)).logits
            tokens, q, parents = self._children(logits, level, width, chance)
            level = list(range(len(draft), len(draft) + len(parents)))
            draft = draft.grow(tokens, parents, q) if len(draft) else Draft(tokens, parents, q)
        return draft

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        pass

    def _children(self, logits: Tensor, level: list[int], width: int, chance: Chance) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
        """[L, V] logits of a level's nodes -> (tokens [L*width], q [L*width, V] or None, parents)."""
        parents = tuple(node for node in level for _ in range(width))
        if self.sampling.is_greedy:
            return logits.topk(width, -1).indices.flatten(), None, parents
        q, tokens, laws = self.sampling(logits), [], []
        for _ in range(width):
            token = chance.draw(q)
            tokens.append(token)
            laws.append(q)
            q = q.scatter(-1, token[:, None], 0.0)
            total = q.sum(-1, keepdim=True)
            q = torch.where(total > 0, q / total, laws[-1])  # nothing left to draw: a repeated sibling, refused for sure
        return torch.stack(tokens, 1).flatten(), torch.stack(laws, 1).flatten(0, 1), parents
