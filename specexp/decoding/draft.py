"""A draft is a tree of proposed tokens. A drafter makes it, and a verifier keeps one path of it.

A chain is a tree in which each node has one child. For example, the parents (-1, -1, 0, 0) make this tree of four nodes, where -1 (ROOT)
stands for the context's last token:

    context ─┬─ node 0 ─┬─ node 2
             │          └─ node 3
             └─ node 1

The notation is that of Leviathan et al. 2023 (arXiv:2211.17192): p is the target's distribution, q the draft's, and x are the drafted
tokens. This module knows neither who drew the tokens nor how logits for them are computed.

How the tokens of a draft are collected while its model drafts them one after another, each drawn from the logits of the last.

On the CPU a greedy draft is made with NumPy and plain integers (`HostRollout`). The reason is that a forward pass replaces the contents of
the processor's caches, so every small torch operation between two passes is slow. This module knows nothing of runners or their caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.sampling import Draws

ROOT = -1  # the parent of nodes that directly follow the context


@dataclass(frozen=True, eq=False)
class Draft:
    """N proposed tokens.

    tokens: [N] int64 on the device. parents[i] < i is the node that node i follows, or ROOT if it follows the context's last token.
    q: [N, V]; row i is the distribution that token i was drawn from (given that its earlier siblings were refused). It is None when every
       token is a point mass, which means that it was chosen without chance: greedy drafts, n-grams and other deterministic proposals.
    confidence: [N], the raw probability of each token under its drafter, or None. No lossless rule uses it.
    stages: the name of each node's drafter, or () when there is only one drafter.
    base: the draft that this one was grown from. Its nodes are our first nodes, so a cache need not compare them.
    entropy: in nats, of the distribution that x_1 was drawn from, if a length rule looked at it. It is for the records; no rule uses it.
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
        """Make a chain of x_1 .. x_N, in which each token follows the one before."""
        return cls(tokens, chain_parents(tokens.shape[0]), q, **fields)

    @classmethod
    def after(cls, last: int, block: Tensor, q: Tensor | None = None) -> Draft:
        """Make a chain of x_1 .. x_N from a block of [1 + N] tokens, the first of which is the context's last token, with the id `last`.
        The block is remembered for `block_after`."""
        draft = cls.chain(block[1:], q)
        draft.__dict__["_block"] = last, block
        return draft

    def block_after(self, last: int) -> Tensor | None:
        """Return the [1 + N] block of the token `last` and all drafted ones, which is what a target's pass reads. It is None if the draft
        was not made from such a block."""
        held = self.__dict__.get("_block")
        return held[1] if held is not None and held[0] == last else None

    @classmethod
    def of_ids(cls, ids: Sequence[int], device: torch.device | str = "cpu") -> Draft:
        """Make a chain of point masses whose ids are already on the host, as those of n-gram drafters are."""
        return HostDraft(ids, chain_parents(len(ids)), device)

    @classmethod
    def of_nodes(cls, ids: Sequence[int], parents: tuple[int, ...], device: torch.device | str = "cpu", base: Draft | None = None) -> Draft:
        """Make a tree of point masses whose ids are already on the host. `base` is as in `Draft`."""
        return HostDraft(ids, parents, device, base)

    def grow(self, tokens: Tensor, parents: tuple[int, ...], q: Tensor | None = None) -> Draft:
        """Return this draft with further nodes appended. q has to be given every time a tree grows, or never."""
        if not len(self):
            return Draft(tokens, parents, q)
        rows = q if self.q is None else torch.cat([self.q, q])
        return Draft(torch.cat([self.tokens, tokens]), self.parents + parents, rows, base=self)

    def note(self, entropy: float) -> Draft:
        """Record the entropy in this draft and return it. No copy is made, because caches recognise a draft by its identity."""
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
        """The tokens on the host. Reading them waits for the device, unless `fetch` has copied them already."""
        return tuple(self.tokens.tolist())

    def fetch(self, *values: Tensor) -> list[int]:
        """Return the int64 `values` ([k] each) on the host, one after another. The draft's ids come along in the same copy, so that a
        round copies from the device to the host only once."""
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
        """Each node's depth: 1 for children of the root, 2 for theirs, and so on."""
        return depths(self.parents)

    def children(self, node: int) -> list[int]:
        """The nodes that directly follow `node` (or ROOT), in the order in which they were drawn."""
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
        """Return the same nodes as if they had been drawn from these [N, V] weights."""
        return Draft(self.tokens, self.parents, q, self.confidence, self.stages, self.base, self.entropy)

    def distributions(self, p: Tensor) -> Tensor:
        """Return q as [N, V], in the width of p. Point masses become rows with a single 1."""
        if self.q is not None:
            return self.q
        return torch.zeros(len(self), p.shape[-1], dtype=p.dtype, device=p.device).scatter_(1, self.tokens[:, None], 1.0)


class HostDraft(Draft):
    """A draft of point masses whose ids are on the host already. The tensor `tokens` is made when it is first asked for; on a CPU most
    rounds never ask."""

    def __init__(self, ids: Sequence[int], parents: tuple[int, ...], device: torch.device | str = "cpu", base: Draft | None = None):
        self.__dict__.update(ids=tuple(ids), parents=parents, q=None, confidence=None, stages=(), base=base, entropy=None, _device=device)
        if parents is chain_parents(len(parents)):
            self.__dict__["is_chain"] = True
        if device != "cpu" and torch.device(device).type != "cpu":
            self.tokens  # noqa: B018 - the copy to the device begins now, before the target's pass needs it

    @cached_property
    def tokens(self) -> Tensor:
        return torch.tensor(self.ids, dtype=torch.int64, device=self._device)


@lru_cache(maxsize=256)
def chain_parents(length: int) -> tuple[int, ...]:
    """Return (-1, 0, 1, ...). There is one shared tuple per length, so a chain can be recognised by identity, without a comparison."""
    return tuple(range(ROOT, length - 1))


def depths(parents: Sequence[int]) -> tuple[int, ...]:
    """Return each node's depth: 1 for children of the root, 2 for theirs, and so on. (-1, -1, 0, 0) gives (1, 1, 2, 2)."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent == ROOT else found[parent] + 1)
    return tuple(found)


@lru_cache(maxsize=8)
def empty_draft(device: torch.device | str = "cpu") -> Draft:
    """The draft without tokens. A round with it is one step of autoregressive decoding."""
    return Draft.of_ids((), device)


class DeviceRollout:
    """Draws tokens by any sampling rule, on the device. context: the text that the draft follows."""

    def __init__(self, context: Context, draws: Draws):
        self._last, self._tokens, self._laws = context.ids[-1], [context.tail(len(context) - 1)], []
        self._draws = draws

    def draw(self, logits: Tensor) -> Tensor:
        """Draw the next token: [1, V] logits -> [1]."""
        token, law = self._draws.token(logits)
        self._tokens.append(token)
        self._laws.append(law)
        return token

    def draft(self) -> Draft:
        """Return the chain of all tokens that were drawn."""
        return Draft.after(self._last, torch.cat(self._tokens), None if self._laws[0] is None else torch.cat(self._laws))


class HostRollout:
    """Draws greedy tokens from float32 or float64 logits on the CPU."""

    def __init__(self) -> None:
        self._ids: list[int] = []

    def draw(self, logits: Tensor) -> Tensor:
        self._ids.append(token := int(logits.numpy().argmax()))
        return single_token(token)

    def draft(self) -> Draft:
        return Draft.of_ids(self._ids)


@lru_cache(maxsize=2**16)
def single_token(token: int) -> Tensor:
    """Return the token as a tensor, [1] on the CPU. It is made once and never written to. It is not made in inference mode, so that code
    which trains may read it too."""
    with torch.inference_mode(False):
        return torch.tensor([token])
