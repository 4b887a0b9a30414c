"""Token trees that grow where the draft model is sure of itself, with one draft pass per level.

A `Growth` decides which nodes get children, and how many, from the draft's probabilities and from earlier rounds: `BestFirst` (as EAGLE-2),
`Threshold` and `Adaptive` (both from DynaTree). The shape of such a tree depends on the tokens in it, so a drawn token would bias the text.
Therefore the tree consists of the draft's best tokens, and its nodes are point masses, which the rejection rule verifies exactly at every
temperature.

A tree is grown on the host (`Sprout`), so the host waits for the device once per draft pass (`Feeler`). How the nodes are verified is not
known here.
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

Best = list[tuple[float, int]]  # (log-probability, id) of the likeliest tokens after a node, best first


class Sprout:
    """A growing tree on the host. log_p: the log-probability of each node's path. Of all nodes that grew, the `max_nodes` with the
    likeliest paths stay in the draft."""

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
        """Take from the frontier the nodes that cannot be among the best `max_nodes` any more. Their children would be less likely still,
        so they need none."""
        if len(self.ids) > self.max_nodes:
            bar = sorted(self.log_p, reverse=True)[self.max_nodes - 1]
            self.frontier = [node for node in self.frontier if self.path_log_p(node) >= bar]

    def draft(self, device: torch.device) -> Draft:
        """Return the best nodes as a draft. A parent is at least as likely as its child and has a lower number, so no kept node loses its
        parent."""
        kept = sorted(sorted(range(len(self.ids)), key=lambda node: (-self.log_p[node], node))[: self.max_nodes])
        number = {ROOT: ROOT} | {node: i for i, node in enumerate(kept)}
        return Draft.of_nodes([self.ids[n] for n in kept], tuple(number[self.parents[n]] for n in kept), device)


class Feeler:
    """Asks the draft model what follows the nodes of one sprout, with at most one draft pass each time."""

    def __init__(self, runner: Runner, context: Context, temperature: float, width: int):
        self.runner, self.context, self.temperature, self.width = runner, context, temperature, width
        self.fed = empty_draft(context.device)  # the nodes that the draft model has scored
        self.place = {ROOT: ROOT}  # node of the sprout -> node of `fed`
        self.best: dict[int, Best] = {}  # node of `fed` -> the best tokens after it

    def ready(self, sprout: Sprout) -> list[int]:
        """Return the nodes of the frontier whose best next tokens are known: all of them, after one pass over them."""
        nodes = [node for node in sprout.frontier if node != ROOT]
        ids, parents = [sprout.ids[node] for node in nodes], [self.place[sprout.parents[node]] for node in nodes]
        self.place.update(zip(nodes, range(len(self.fed), len(self.fed) + len(nodes)), strict=True))
        for token, parent in self.guesses(sprout):
            ids.append(token)
            parents.append(parent)
        self._feed(ids, parents)
        return list(sprout.frontier)

    def guesses(self, sprout: Sprout) -> Sequence[tuple[int, int]]:
        """Return (id, node of `fed` that it follows) of nodes that may be needed later and are to be scored in the same pass. They are
        numbered after those needed now. This class makes no such guesses."""
        return ()

    def _feed(self, ids: Sequence[int], parents: Sequence[int]) -> None:
        """Run one draft pass over further nodes. The first pass also scores what follows the context itself."""
        if ids:
            base = self.fed if len(self.fed) else None
            self.fed = Draft.of_nodes((*self.fed.ids, *ids), (*self.fed.parents, *parents), self.context.device, base)
        rows = len(ids) + (0 if self.best else 1)
        found = self._likeliest(self.runner.logits(self.context, self.fed, rows))
        self.best.update(zip(range(len(self.fed) - rows, len(self.fed)), found, strict=True))

    def _likeliest(self, logits: Tensor) -> list[Best]:
        """Return each row's best tokens, given [n, V] logits. Log-probabilities and ids come to the host in one copy, as float64, which
        holds every id exactly."""
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        values, ids = (logits.float() / self.temperature).log_softmax(-1).topk(min(self.width, logits.shape[-1]))
        log_p, tokens = torch.stack([values.to(dtype), ids.to(dtype)]).tolist()
        return [[(p, int(token)) for p, token in zip(*row, strict=True)] for row in zip(log_p, tokens, strict=True)]


class GrownTreeDrafter(Drafter):
    """Drafts a tree that grows by the draft model's probabilities. growth: decides where it grows. max_nodes: how many of its nodes are
    verified, which are those with the likeliest paths."""

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
    """Decides where a tree grows. width: the most children of a node. depth: the most nodes of a path."""

    width: int
    depth: int

    def start(self) -> None:
        """A new prompt begins."""

    def children(self, confidence: float) -> int:
        """Return how many children a node gets if the draft's best token after it has the probability `confidence`."""
        return self.width

    def expands(self, p: float, depth: int) -> bool:
        """Return whether a node `depth` levels below the root gets children, where p is the probability of its path. The root always gets
        children."""
        return depth < self.depth

    def observe(self, depth: int, accepted: int) -> None:
        """Learn how many tokens of a tree of that depth were accepted."""


class BestFirst(Growth):
    """Nodes get children if their path is among the likeliest that the budget of nodes allows, as EAGLE-2 (arXiv:2406.16858) ranks its
    nodes. The budget is `GrownTreeDrafter`'s max_nodes."""

    def __init__(self, branching: int = 4, depth: int = 8):
        _check(branching=branching, depth=depth)
        self.width, self.depth = branching, depth


class Threshold(Growth):
    """Nodes get children if their path has at least the probability `threshold`. Other nodes are verified too, but get no children
    (DynaTree's second tree)."""

    def __init__(self, branching: int = 2, depth: int = 5, threshold: float = 0.03):
        _check(branching=branching, depth=depth)
        _check_probabilities(threshold=threshold)
        self.width, self.depth, self.threshold = branching, depth, threshold

    def expands(self, p: float, depth: int) -> bool:
        return depth < self.depth and p >= self.threshold


class Adaptive(Growth):
    """DynaTree's three rules.

    - Branching depends on confidence. A node gets min_branching children if the draft's best token after it has a probability above
      `high`, max_branching if it has less than `low`, and mid_branching between the two.
    - Depth depends on the path's probability. A node whose path is less likely than `stop` or `threshold` gets no children. Beyond
      base_depth only paths likelier than `deep` go on, and none beyond max_depth.
    - History moves base_depth and `high`. `accepted` is the share of the tree's depth that was accepted, averaged over the last `window`
      rounds of this prompt. After each round base_depth += depth_rate * (accepted - share) and high -= high_rate * (accepted - share). For
      example, with share 0.7 and accepted 0.9 base_depth grows by 0.2 and `high` falls by 0.01. The first 4 rounds change nothing.
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
