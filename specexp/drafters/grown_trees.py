"""A tree of the draft's best tokens that grows where the draft is sure of its paths; one draft pass per level.

Nodes are point masses, which the target's rule keeps exact at every temperature: what is in the tree depends on the draft's probabilities
alone, never on a draw. Trees are grown on the host, so each pass ends in one synchronisation. Knows nothing of how nodes are verified.

Where a token tree grows: which nodes get children, and how many, from the draft's probabilities and from earlier rounds.

Such a shape depends on the tokens in it, so these trees consist of the draft's best tokens, never of drawn ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import exp, inf
from typing import Protocol

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.protocols import Drafter, Runner, Verdict, within
from specexp.decoding.sampling import Draws
from specexp.drafters.fixed_trees import growing

Best = list[tuple[float, int]]  # (log-probability, id) of the likeliest tokens behind a node, best first


class Sprout:
    """A growing tree on the host. log_p: of each node's path. The best `max_nodes` of all that grew will stay."""

    def __init__(self, growth: Growth, max_nodes: int, limit: int):
        self.growth, self.max_nodes, self.limit = growth, max_nodes, limit
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.log_p: list[float] = []
        self.depths: list[int] = []
        self.frontier = [ROOT]  # nodes that are to get children

    def path_log_p(self, node: int) -> float:
        return 0.0 if node == ROOT else self.log_p[node]

    def depth(self, node: int) -> int:
        return 0 if node == ROOT else self.depths[node]

    def branch(self, node: int, best: Best) -> None:
        """Give a node of the frontier its children."""
        self.frontier.remove(node)
        depth = self.depth(node) + 1
        for log_p, token in best[: self.growth.children(exp(best[0][0]))]:
            if log_p > -inf:
                self._add(token, node, self.path_log_p(node) + log_p, depth)

    def _add(self, token: int, parent: int, log_p: float, depth: int) -> None:
        if depth < self.limit and self.growth.expands(exp(log_p), depth):
            self.frontier.append(len(self.ids))
        self.ids.append(token)
        self.parents.append(parent)
        self.log_p.append(log_p)
        self.depths.append(depth)

    def prune(self) -> None:
        """Nodes that cannot be among the best any more need no children: theirs would be less likely still."""
        if len(self.ids) > self.max_nodes:
            bar = sorted(self.log_p, reverse=True)[self.max_nodes - 1]
            self.frontier = [node for node in self.frontier if self.path_log_p(node) >= bar]

    def draft(self, device: torch.device) -> Draft:
        """The best nodes; a parent is never less likely than its child, and was there before it."""
        kept = sorted(sorted(range(len(self.ids)), key=lambda node: (-self.log_p[node], node))[: self.max_nodes])
        number = {ROOT: ROOT} | {node: i for i, node in enumerate(kept)}
        return Draft.of_nodes([self.ids[n] for n in kept], tuple(number[self.parents[n]] for n in kept), device)


class Feeler:
    """What the draft says behind the nodes of one sprout: at most one draft pass each time it is asked."""

    def __init__(self, runner: Runner, context: Context, temperature: float, width: int):
        self.runner, self.context, self.temperature, self.width = runner, context, temperature, width
        self.fed = empty_draft(context.device)  # the nodes the draft has seen
        self.place = {ROOT: ROOT}  # sprout's node -> node of `fed`
        self.best: dict[int, Best] = {}  # behind nodes of `fed`

    def ready(self, sprout: Sprout) -> list[int]:
        """Nodes of the frontier behind which the draft's best tokens are known now: all of them, after one pass."""
        nodes = [node for node in sprout.frontier if node != ROOT]
        ids, parents = [sprout.ids[node] for node in nodes], [self.place[sprout.parents[node]] for node in nodes]
        self.place.update(zip(nodes, range(len(self.fed), len(self.fed) + len(nodes)), strict=True))
        for token, parent in self.guesses(sprout):
            ids.append(token)
            parents.append(parent)
        self._feed(ids, parents)
        return list(sprout.frontier)

    def guesses(self, sprout: Sprout) -> Sequence[tuple[int, int]]:
        """(id, node of `fed` that it follows) of nodes that may be asked for later; they are numbered behind those asked for now."""
        return ()

    def _feed(self, ids: Sequence[int], parents: Sequence[int]) -> None:
        """One draft pass over further nodes; the first one also looks behind the context itself."""
        if ids:
            base = self.fed if len(self.fed) else None
            self.fed = Draft.of_nodes((*self.fed.ids, *ids), (*self.fed.parents, *parents), self.context.device, base)
        rows = len(ids) + (0 if self.best else 1)
        found = self._likeliest(self.runner.logits(self.context, self.fed, rows))
        self.best.update(zip(range(len(self.fed) - rows, len(self.fed)), found, strict=True))

    def _likeliest(self, logits: Tensor) -> list[Best]:
        """[n, V] logits -> each row's best tokens, in one copy to the host (ids are exact in a float64)."""
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        values, ids = (logits.float() / self.temperature).log_softmax(-1).topk(min(self.width, logits.shape[-1]))
        log_p, tokens = torch.stack([values.to(dtype), ids.to(dtype)]).tolist()
        return [[(p, int(token)) for p, token in zip(*row, strict=True)] for row in zip(log_p, tokens, strict=True)]


class GrownTreeDrafter(Drafter):
    """growth: where the tree grows. max_nodes: how many of its nodes are verified, those of the likeliest paths."""

    needs_trees = True

    def __init__(self, runner: Runner, growth: Growth, max_nodes: int):
        if max_nodes < 1:
            raise ValueError(f"max_nodes={max_nodes} leaves no node; give 1 or more.")
        self.runner, self.growth, self.max_nodes = growing(runner), growth, max_nodes

    @property
    def models(self) -> dict[str, Runner]:
        return {"draft": self.runner}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)
        self.growth.start()

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        limit = within(limit, self.runner.room(context))
        if limit == 0:
            return empty_draft(context.device)
        sprout, feeler = Sprout(self.growth, self.max_nodes, limit), self._feeler(context, draws.sampling.temperature or 1.0)
        while sprout.frontier:
            for node in feeler.ready(sprout):
                sprout.branch(node, feeler.best[feeler.place[node]])
            sprout.prune()
        return sprout.draft(context.device)

    def _feeler(self, context: Context, temperature: float) -> Feeler:
        return Feeler(self.runner, context, temperature, self.growth.width)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        if len(draft):
            self.growth.observe(max(draft.depths), len(verdict.path))


class Growth(Protocol):
    """width, depth: no node gets more children, no path gets longer."""

    width: int
    depth: int

    def start(self) -> None:
        """A new prompt begins."""

    def children(self, confidence: float) -> int:
        """How many children a node gets behind which the draft's best token has this probability."""
        return self.width

    def expands(self, p: float, depth: int) -> bool:
        """Whether a node `depth` levels below the root, whose path has probability p, gets children (the root always does)."""
        return depth < self.depth

    def observe(self, depth: int, accepted: int) -> None:
        """What became of a round's tree of that depth."""


class BestFirst(Growth):
    """Wherever the path's probability is among the best that the budget of nodes allows (as EAGLE-2, arXiv:2406.16858, ranks its nodes)."""

    def __init__(self, branching: int = 4, depth: int = 8):
        _check(branching=branching, depth=depth)
        self.width, self.depth = branching, depth


class Threshold(Growth):
    """Wherever the path's probability is at least `threshold`; other nodes are verified, but get no children (DynaTree's second tree)."""

    def __init__(self, branching: int = 2, depth: int = 5, threshold: float = 0.03):
        _check(branching=branching, depth=depth)
        _check_probabilities(threshold=threshold)
        self.width, self.depth, self.threshold = branching, depth, threshold

    def expands(self, p: float, depth: int) -> bool:
        return depth < self.depth and p >= self.threshold


class Adaptive(Growth):
    """DynaTree's three rules.

    Branching by confidence: min_branching children where the draft's best token has more than `high`, max_branching where it has less
    than `low`, mid_branching between. Depth by the path's probability: no children below `stop` or `threshold`, beyond base_depth only
    above `deep`, never beyond max_depth. History: base_depth and `high` follow the part of the tree's depth that was accepted in the last
    `window` rounds of this prompt, base_depth += depth_rate * (accepted - share) and high -= high_rate * (accepted - share).
    """

    LEAST_ROUNDS, LEAST_DEPTH, HIGH_RANGE = 5, 2, (0.5, 0.95)

    def __init__(
        self,
        high: float = 0.9,
        low: float = 0.4,
        min_branching: int = 1,
        mid_branching: int = 2,
        max_branching: int = 3,
        base_depth: int = 5,
        max_depth: int = 8,
        stop: float = 0.1,
        deep: float = 0.5,
        threshold: float = 0.05,
        share: float = 0.7,
        depth_rate: float = 1.0,
        high_rate: float = 0.05,
        window: int = 10,
    ):
        _check(min_branching=min_branching, base_depth=base_depth, window=window)
        _check_probabilities(high=high, low=low, stop=stop, deep=deep, threshold=threshold, share=share)
        if not min_branching <= mid_branching <= max_branching:
            raise ValueError(f"min_branching={min_branching}, mid_branching={mid_branching}, max_branching={max_branching} do not ascend.")
        if low > high or base_depth > max_depth:
            raise ValueError(f"low={low} and base_depth={base_depth} must not exceed high={high} and max_depth={max_depth}.")
        self.low, self.stop, self.deep, self.threshold, self.share = low, stop, deep, threshold, share
        self.min_branching, self.mid_branching, self.width = min_branching, mid_branching, max_branching
        self.depth, self.depth_rate, self.high_rate = max_depth, depth_rate, high_rate
        self._begin, self._shares = (float(base_depth), high), deque(maxlen=window)
        self.start()

    def start(self) -> None:
        self.base_depth, self.high = self._begin
        self._shares.clear()

    def children(self, confidence: float) -> int:
        return self.min_branching if confidence > self.high else self.width if confidence < self.low else self.mid_branching

    def expands(self, p: float, depth: int) -> bool:
        if depth >= self.depth or p < max(self.stop, self.threshold):
            return False
        return depth < round(self.base_depth) or p > self.deep

    def observe(self, depth: int, accepted: int) -> None:
        self._shares.append(accepted / depth)
        if len(self._shares) < min(self.LEAST_ROUNDS, self._shares.maxlen):
            return
        error = sum(self._shares) / len(self._shares) - self.share
        self.base_depth = _clipped(self.base_depth + self.depth_rate * error, self.LEAST_DEPTH, self.depth)
        self.high = _clipped(self.high - self.high_rate * error, max(self.low, self.HIGH_RANGE[0]), self.HIGH_RANGE[1])


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} makes no tree; give 1 or more.")


def _check_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is no probability; give one in [0, 1].")
