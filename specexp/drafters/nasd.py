"""N-gram assisted decoding: the draft is what most often followed the last few ids, by counts over the prompt and the text that grow with
every round (NASD in romsto/Speculative-Decoding).

With top_k_filler=1 this is n-gram assisted decoding proper (NAPD, a relative of LLMA). With more, the counts also take in the ids that the
target thought likely without emitting them. The proposals are point masses, even those drawn at random, since they are drawn without regard
to the target; so the text keeps its exact distribution. With reset_in_between=false the counts are kept from prompt to prompt. The text is
then the same (greedy) or has the same distribution (sampling), but the speed depends on the order of the prompts.

A storage counts and answers, and knows nothing of drafts. Counting one id and answering once each take O(order) steps, however much was
counted before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Verdict
from specexp.decoding.sampling import Draws
from specexp.drafters.copying import Material, without_logits
from specexp.errors import UserError


class NasdDrafter(Drafter):
    """Drafts what the counts say is likeliest, and counts every round. top_k_filler: how many of the target's best ids are counted at each
    position, besides the emitted id. With 1 none are.

    stop_if_unknown: the draft ends where the storage has no answer. Otherwise it goes on with an id drawn uniformly, as soon as the number
    of ids is known, which is after the first round.

    In a cascade, ids are counted when they are settled in the text. What an inner level accepted may still be refused, so it is used to
    look up and not counted.
    """

    def __init__(
        self,
        storage: NgramStorage,
        policy: LengthRule,
        top_k_filler: int = 1,
        stop_if_unknown: bool = True,
        reset_in_between: bool = True,
    ):
        if top_k_filler < 1:
            raise UserError(f"top_k_filler={top_k_filler} does not fit; give 1 to count emitted tokens alone, or more.")
        self.storage, self.policy, self.top_k_filler = storage, without_logits(policy), top_k_filler
        self.stop_if_unknown, self.reset_in_between = stop_if_unknown, reset_in_between
        self._material = Material()
        self._last: list[int] = []  # the last order - 1 ids that were counted
        self._ahead: list[int] = []  # ids that were counted after a round and have not been seen in the context yet
        self._drafted: Draft | None = None  # the last draft for the text itself (not for a fork): its verdict says how the text goes on
        self._ids: torch.Tensor | None = None  # [V] ones, to draw an id uniformly

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()
        self._material.start(prompt)
        self._last, self._ahead, self._drafted = [], [], None
        if self.reset_in_between:
            self.storage.clear()

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        self._take_in(context)
        length = min(self.policy.length(), limit) if limit else 0
        draft = self._chain(context, length, draws)
        self._drafted = draft if context.permanent == len(context) else None
        return draft

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))
        self._ids = logits.new_ones(logits.shape[-1]) if self._ids is None else self._ids
        if draft is self._drafted:
            self._learn(draft, verdict, logits)
        self._drafted = None

    def _take_in(self, context: Context) -> None:
        if self._material.restarts(context):
            self._last, self._ahead = [], []
            if self._material.apart:
                self._count(self._material.prompt)
                self._material.skip_prompt()
                self._last = []
        fresh = self._material.settled(context)
        if not fresh:
            return
        if fresh[: len(self._ahead)] != self._ahead:  # the text went on differently
            self._last, self._ahead = context.ids[: context.permanent - len(fresh)][1 - self.storage.order :], []
        self._count(fresh[len(self._ahead) :])
        self._ahead = []

    def _chain(self, context: Context, length: int, draws: Draws) -> Draft:
        width = self.storage.order - 1
        before, ids = context.ids[-width:], []
        while len(ids) < length:
            token = self.storage.likeliest(before)
            if token is None:
                if self.stop_if_unknown or self._ids is None:
                    break
                token = int(draws.draw(self._ids))
            ids.append(token)
            before = [*before, token][-width:]
        return Draft.of_ids(ids, context.device) if ids else empty_draft(context.device)

    def _learn(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """Count at each position of the round: the emitted id once, and then the target's best ids there, best first."""
        emitted = [*(draft.ids[node] for node in verdict.path), verdict.token]
        fillers = self._best(verdict, logits) if self.top_k_filler > 1 else ((),) * len(emitted)
        for token, others in zip(emitted, fillers, strict=True):
            before = self._last
            self._count([token])
            for other in others:
                self.storage.count(before, other)
        self._ahead = emitted

    def _best(self, verdict: Verdict, logits: Tensor) -> list[list[int]]:
        """Return the target's best ids after the context and after each accepted node."""
        rows = logits[[node + 1 for node in (ROOT, *verdict.path)]]
        return rows.topk(min(self.top_k_filler, rows.shape[-1]), -1).indices.tolist()

    def _count(self, ids: Iterable[int]) -> None:
        for token in ids:
            if self._last:
                self.storage.count(self._last, token)
            self._last = [*self._last, token][-(self.storage.order - 1) :]


class NgramStorage(Protocol):
    """Counts what follows the last ids. A context is the ids that a count belongs to."""

    order: int  # n: a context has at most n - 1 ids

    def clear(self) -> None: ...

    def count(self, before: Sequence[int], token: int) -> None:
        """Count that `token` has followed `before` once more. Of `before` the last order - 1 ids matter."""

    def likeliest(self, before: Sequence[int]) -> int | None:
        """Return the id that followed `before` most often, or None if none was counted."""


class _Followers:
    """The counts of the ids after one context, and the id counted most. Of ids counted equally often it is the one that got there first."""

    __slots__ = ("best", "counts", "most")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.best, self.most = -1, 0

    def count(self, token: int) -> None:
        seen = self.counts[token] = self.counts.get(token, 0) + 1
        if seen > self.most:
            self.best, self.most = token, seen


class BasicStorage:
    """Counts after contexts of order - 1 ids, order - 2 ids and so on down to one. The longest context that is known answers (back-off)."""

    def __init__(self, order: int = 3):
        if order < 2:
            raise UserError(f"order={order} leaves no context before the counted token; give 2 or more.")
        self.order = order
        self.sizes = tuple(range(order - 1, 0, -1))
        self.clear()

    def clear(self) -> None:
        self._known: dict[tuple[int, ...], _Followers] = {}

    def count(self, before: Sequence[int], token: int) -> None:
        for size in self.sizes:
            if size <= len(before):
                self._known.setdefault(tuple(before[-size:]), _Followers()).count(token)

    def likeliest(self, before: Sequence[int]) -> int | None:
        for size in self.sizes:
            if size <= len(before) and (followers := self._known.get(tuple(before[-size:]))) is not None:
                return followers.best
        return None


class OneLevelStorage(BasicStorage):
    """Counts after contexts of exactly order - 1 ids, so it answers less often, and its answers are right more often."""

    def __init__(self, order: int = 3):
        super().__init__(order)
        self.sizes = (order - 1,)
