"""A draft is a token tree: what a drafter proposes and a verifier prunes to one path.

Notation of Leviathan et al. 2023 (arXiv:2211.17192): p is the target's distribution, q the draft's, x the drafted tokens.
Knows nothing of who drew the tokens, nor how logits for them are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

ROOT = -1  # the parent of nodes that directly follow the context


@dataclass(frozen=True, eq=False)
class Draft:
    """N proposed tokens.

    tokens: [N] int64 on the device. parents[i] < i is the node before node i, ROOT for the context's last token.
    q: [N, V], row i the distribution token i was drawn from (given that its earlier siblings were refused);
       None when every token is a point mass (greedy, n-gram, any deterministic proposal).
    confidence: [N] raw probability of each token under its drafter, or None; never used by a lossless rule.
    stages: name of the drafter of each node, or () when there is only one.
    base: the draft this one was grown from (its nodes are a prefix of ours), so that caches need no comparison.
    entropy: nats, of the law that x_1 was drawn from, where a policy looked at it; for records, no rule uses it.
    """

    tokens: Tensor
    parents: tuple[int, ...]
    q: Tensor | None = None
    confidence: Tensor | None = None
    stages: tuple[str, ...] = ()
    base: Draft | None = field(default=None, repr=False)
    entropy: float | None = None

    def __len__(self) -> int:
        return len(self.parents)

    @classmethod
    def chain(cls, tokens: Tensor, q: Tensor | None = None, **fields: object) -> Draft:
        """x_1 .. x_N, each following the one before."""
        return cls(tokens, chain_parents(tokens.shape[0]), q, **fields)

    @classmethod
    def behind(cls, last: int, block: Tensor, q: Tensor | None = None) -> Draft:
        """x_1 .. x_N of [1 + N] tokens that begin with the one they follow, whose id is `last`."""
        draft = cls.chain(block[1:], q)
        draft.__dict__["_block"] = last, block
        return draft

    def block_behind(self, last: int) -> Tensor | None:
        """[1 + N] the token `last` and all of ours, if we were made so: what a target's pass reads."""
        held = self.__dict__.get("_block")
        return held[1] if held is not None and held[0] == last else None

    @classmethod
    def of_ids(cls, ids: Sequence[int], device: torch.device | str = "cpu") -> Draft:
        """A chain of point masses whose ids are already on the host (n-gram drafters)."""
        return HostDraft(ids, chain_parents(len(ids)), device)

    @classmethod
    def of_nodes(cls, ids: Sequence[int], parents: tuple[int, ...], device: torch.device | str = "cpu", base: Draft | None = None) -> Draft:
        """A tree of point masses whose ids are already on the host; `base` as above."""
        return HostDraft(ids, parents, device, base)

    def grow(self, tokens: Tensor, parents: tuple[int, ...], q: Tensor | None = None) -> Draft:
        """This draft with further nodes behind it; q is given for all drafts of a tree or for none."""
        if not len(self):
            return Draft(tokens, parents, q)
        rows = q if self.q is None else torch.cat([self.q, q])
        return Draft(torch.cat([self.tokens, tokens]), self.parents + parents, rows, base=self)

    def note(self, entropy: float) -> Draft:
        """This very draft (caches know it by identity), its entropy recorded."""
        self.__dict__["entropy"] = entropy
        return self

    def extends(self, other: Draft) -> bool:
        """Whether `other` is this draft or one it was grown from."""
        draft: Draft | None = self
        while draft is not None and draft is not other:
            draft = draft.base
        return draft is other

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The tokens on the host: a device synchronisation unless `fetch` has brought them along."""
        return tuple(self.tokens.tolist())

    def fetch(self, *values: Tensor) -> list[int]:
        """All int64 `values` ([k] each) on the host, one after another, and our ids with them: one device-to-host copy for all."""
        if values[0].is_cpu:  # everything is on the host: nothing to gather
            return [value for tensor in values for value in tensor.tolist()]
        if "ids" in self.__dict__:
            return torch.cat(values).tolist()
        host = torch.cat([*values, self.tokens]).tolist()
        self.__dict__["ids"] = tuple(host[len(host) - len(self) :])
        return host[: len(host) - len(self)]

    @cached_property
    def is_chain(self) -> bool:
        chain = chain_parents(len(self))
        return self.parents is chain or self.parents == chain

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """1 for children of the root, 2 for theirs, ..."""
        return depths(self.parents)

    def children(self, node: int) -> list[int]:
        """Nodes directly behind `node` (or ROOT), in the order in which they were drawn."""
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from the root down to `node`; () for ROOT."""
        if self.is_chain:
            return tuple(range(node + 1))
        steps: list[int] = []
        while node != ROOT:
            steps.append(node)
            node = self.parents[node]
        return tuple(reversed(steps))

    def with_q(self, q: Tensor) -> Draft:
        """The same nodes, as if they had been drawn from these [N, V] weights."""
        return Draft(self.tokens, self.parents, q, self.confidence, self.stages, self.base, self.entropy)

    def distributions(self, p: Tensor) -> Tensor:
        """[N, V] q shaped like the rows of p: point masses written out as one-hot rows."""
        if self.q is not None:
            return self.q
        return torch.zeros(len(self), p.shape[-1], dtype=p.dtype, device=p.device).scatter_(1, self.tokens[:, None], 1.0)


class HostDraft(Draft):
    """Point masses whose ids are on the host already. `tokens` is made when it is asked for, which on a CPU most rounds never do."""

    def __init__(self, ids: Sequence[int], parents: tuple[int, ...], device: torch.device | str = "cpu", base: Draft | None = None):
        self.__dict__.update(ids=tuple(ids), parents=parents, q=None, confidence=None, stages=(), base=base, entropy=None, _device=device)
        if parents is chain_parents(len(parents)):
            self.__dict__["is_chain"] = True
        if device != "cpu" and torch.device(device).type != "cpu":
            self.tokens  # noqa: B018 - on its way to the device before the target's pass wants it

    @cached_property
    def tokens(self) -> Tensor:
        return torch.tensor(self.ids, dtype=torch.int64, device=self._device)


@lru_cache(maxsize=256)
def chain_parents(length: int) -> tuple[int, ...]:
    """(-1, 0, 1, ...): one shared tuple per length, so that recognising a chain is an identity check."""
    return tuple(range(ROOT, length - 1))


def depths(parents: Sequence[int]) -> tuple[int, ...]:
    """Of each node: 1 for children of the root, 2 for theirs, ..."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent == ROOT else found[parent] + 1)
    return tuple(found)


@lru_cache(maxsize=8)
def empty_draft(device: torch.device | str = "cpu") -> Draft:
    """No proposal at all: with it a round is one step of autoregressive decoding."""
    return Draft.of_ids((), device)
