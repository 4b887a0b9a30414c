"""A draft model fills a tree whose shape is decided beforehand; one draft pass per level.

SpecInfer (arXiv:2305.09781) and Sequoia (arXiv:2402.12374). Siblings are drawn without replacement, each with the law it was drawn
from given its earlier siblings, which is what the recursive rejection rule expects. Greedy: each node's best ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Runner, Scores, Verdict
from specexp.decoding.room import within
from specexp.decoding.sampling import Sampling
from specexp.drafters.trees.shape import Shape, Shapes


@dataclass(frozen=True, eq=False)
class Pass:
    """One draft pass: over `rows` nodes, each getting up to `width` children, of which the [k] rows `inner` and `leaves` are kept."""

    rows: int
    width: int
    inner: Tensor
    inner_parents: tuple[int, ...]
    leaves: Tensor


class DrawnTreeDrafter:
    """shapes: gives the shape of each round's tree."""

    needs_trees, needs_hidden = True, False

    def __init__(self, runner: Runner, shapes: Shapes, sampling: Sampling):
        self.runner, self.shapes, self.sampling = growing(runner), shapes, sampling

    @property
    def models(self) -> dict[str, Runner]:
        return {"draft": self.runner}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        limit = within(limit, self.runner.room(context))
        draft = empty_draft(context.device)
        if limit == 0:
            return draft
        passes, leaf_parents = planned(self.shapes.shape(), limit, context.device)
        leaves = []
        for step in passes:
            tokens, q = self._children(self.runner.logits(context, draft, rows=step.rows).logits, step.width, chance)
            leaves.append((tokens[step.leaves], None if q is None else q[step.leaves]))
            if step.inner_parents:
                draft = draft.grow(tokens[step.inner], step.inner_parents, None if q is None else q[step.inner])
        tokens, laws = zip(*leaves, strict=True)
        return draft.grow(torch.cat(tokens), leaf_parents, None if self.sampling.is_greedy else torch.cat(laws))

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        self.shapes.observe(draft, verdict)

    def _children(self, logits: Tensor, width: int, chance: Chance) -> tuple[Tensor, Tensor | None]:
        """[L, V] logits of a level's nodes -> tokens [L*width], node by node, and q [L*width, V] or None (greedy: point masses)."""
        if self.sampling.is_greedy:
            return logits.topk(width, -1).indices.flatten(), None
        q, tokens, laws = self.sampling(logits), [], []
        for _ in range(width):
            token = chance.draw(q)
            tokens.append(token)
            laws.append(q)
            q = q.scatter(-1, token[:, None], 0.0)
            total = q.sum(-1, keepdim=True)
            q = torch.where(total > 0, q / total, laws[-1])  # nothing left to draw: a repeated sibling, refused for sure
        return torch.stack(tokens, 1).flatten(), torch.stack(laws, 1).flatten(0, 1)


def growing(runner: Runner) -> Runner:
    """The runner itself, if it can score trees while they grow. Raises ValueError."""
    if not runner.trees:
        raise ValueError(f"{runner.describe()} cannot grow token trees; choose a method that drafts chains (method=speculative).")
    return runner


@lru_cache(maxsize=64)
def planned(shape: Shape, limit: int, device: torch.device) -> tuple[tuple[Pass, ...], tuple[int, ...]]:
    """The passes that fill a shape of at most `limit` levels, and the parents of all leaves, in the order in which the passes make them."""
    levels = shape.cut(limit).levels
    index = lambda rows: torch.tensor(rows, dtype=torch.int64, device=device)
    passes = tuple(Pass(lv.rows, lv.width, index(lv.inner), lv.inner_parents, index(lv.leaves)) for lv in levels)
    return passes, tuple(parent for level in levels for parent in level.leaf_parents)
