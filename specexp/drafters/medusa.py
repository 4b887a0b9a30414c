"""Medusa (Cai et al. 2024, arXiv:2401.10774): heads on the target's own last hidden state guess several tokens ahead, and a static tree of
their best guesses is verified in one pass. No draft model.

Guesses are deterministic given the past, so they are point masses: lossless by rejection, greedy and under sampling. One small forward
of all heads per round, which is the whole of `draft_seconds`; it is no model pass and counts as none.
Does not know where heads come from, nor how a tree is found (medusa_tree).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, chain_parents, empty_draft
from specexp.decoding.protocols import Runner, Scores, Verdict
from specexp.drafters.medusa_tree import sound_tree


class MedusaDrafter:
    """heads: [n, D] -> [K, n, V] logits, head i about the token i + 2 places behind the state's. tree: paths of ranks, see medusa_tree.

    A tree of width 1 is a chain, and does without trees. Without a hidden state of the text so far (the first round, unless the target
    makes it; a text that went on without this drafter) the draft is empty. Raises ValueError for a tree that its heads cannot fill.
    """

    needs_trees = needs_hidden = True
    models: ClassVar[Mapping[str, Runner]] = {}

    def __init__(self, heads: Callable[[Tensor], Tensor], tree: Iterable[Sequence[int]]):
        paths = sound_tree(tree, len(heads))
        self.heads, self._ranks = heads, 1 + max((max(path) for path in paths), default=0)
        self._shapes = _shapes(paths)
        self._places = torch.tensor([(len(path) - 1) * self._ranks + path[-1] for path in paths], dtype=torch.int64)
        self.needs_trees = self._shapes[-1] != chain_parents(len(paths))
        self._hidden: Tensor | None = None  # [1, D], of the last token but one
        self._length = 0  # of the context it belongs to; before that is known, of the one last drafted for

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self._hidden = None

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        hidden = self._hidden if self._length == len(context) else None
        self._hidden, self._length = None, len(context)
        parents = self._shapes[min(limit, len(self._shapes) - 1)]
        if hidden is None or not parents:
            return empty_draft(context.device)
        if self._places.device != hidden.device:
            self._places = self._places.to(hidden.device)
        best = self.heads(hidden)[:, 0].topk(self._ranks, -1).indices  # [K, ranks]
        return Draft(best.take(self._places[: len(parents)]).to(context.device), parents)  # the last layer may be on a device of its own

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        row = verdict.path[-1] + 1 if verdict.path else 0
        self._hidden = scores.hidden[row : row + 1].clone()  # the round's other rows are let go
        self._length += len(verdict.path) + 1


def _shapes(paths: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Parents of the nodes within each depth, from 0 on; one object each, so that masks are built once."""
    numbers = {path: number for number, path in enumerate(paths)}
    parents = tuple(numbers.get(path[:-1], ROOT) for path in paths)
    counts = [sum(len(path) <= depth for path in paths) for depth in range(len(paths[-1]) + 1 if paths else 1)]
    return tuple(chain_parents(count) if parents[:count] == chain_parents(count) else parents[:count] for count in counts)
