"""Cascade Speculative Drafting (Chen et al. 2023, arXiv:2312.11462, Algorithm 1): several draft models work together, as a matrix K says.

The draft models are ordered from the biggest to the smallest, and a drafter without a model (max-gram) comes last. They are combined in two
ways:

- Vertically (`CascadeDrafter`, section 3.1 of the paper): a model reviews what smaller ones propose, and the result is its draft. So it
  never drafts token by token.
- Horizontally (`RelayDrafter`, section 3.2): several drafters make one draft in turn. Its first tokens are the likeliest to be kept, so the
  best drafter makes those, and the later ones are left to cheaper drafters.

Row 0 of K says how many tokens each drafter adds to the target's draft. Row i says the same for what draft model i reviews (counted from
1); only its columns from i on are used. With two draft models, A and the smaller B, and max-gram:

                A   B   max-gram
        row 0 [[4,  3,  2],        the target reviews 4 tokens of A, then 3 of B, then 2 of max-gram
        row 1  [0,  5,  1],        A makes its tokens by reviewing 5 of B and then 1 of max-gram, again and again
        row 2  [0,  0,  6]]        B makes its tokens by reviewing 6 of max-gram

This module knows nothing of caches or of the rule by which a model reviews.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, Runner, Verdict, Verifier
from specexp.decoding.sampling import Draws, Sampling


class KMatrix:
    """The checked matrix K. rows: n x n whole numbers for n drafters, of which only the upper triangle is used. pair: the models that it is
    for, whose number it has to fit."""

    def __init__(self, rows: Sequence[Sequence[int]], pair):
        given = f"k_matrix={shown(rows)}"
        names = [*pair.all_drafts, "the drafter without a model"]
        if not all(isinstance(row, Sequence) for row in rows) or {len(rows), *map(len, rows)} != {len(names)}:
            shape = f"{len(names)} x {len(names)}, a row and a column for each of {', '.join(names)}"
            raise ValueError(f"{given} does not fit {pair.name}; give {shape}.")
        self.rows = tuple(tuple(row) for row in rows)
        upper = [k for i, row in enumerate(self.rows) for k in row[i:]]
        if any(type(k) is not int or k < 0 for k in upper) or not any(self.rows[0]):
            raise ValueError(f"{given} is no plan; give whole numbers of tokens, not all 0 in the first row.")


def shown(rows: Sequence) -> str:
    return str([list(row) if isinstance(row, Sequence) else row for row in rows])


def cascade(runners: Mapping[str, Runner], statistical: Drafter, name: str, k_matrix: KMatrix, reviewer: Verifier) -> RelayDrafter:
    """Build the target's drafter. runners: the draft models, the biggest first. statistical: the last drafter, which has no model. name:
    its name in the records. reviewer: the rule by which each draft model judges what smaller drafters propose to it.
    """
    return _relay([*runners.items()], statistical, name, k_matrix.rows, reviewer)


def _relay(
    models: list[tuple[str, Runner]], statistical: Drafter, name: str, rows: Sequence[Sequence[int]], reviewer: Verifier
) -> RelayDrafter:
    """Build one level: the drafters take turns by the first row of `rows`, and each model among them reviews a smaller level, which is
    built from the remaining rows and columns."""
    stages: dict[str, Drafter] = {}
    for place, (model, runner) in enumerate(models, start=1):
        rest = [row[place:] for row in rows[place:]]
        inner = _relay(models[place:], statistical, name, rest, reviewer)
        stages[model] = CascadeDrafter(Decoder(runner, inner, reviewer), model)
    return RelayDrafter(stages | {name: statistical}, rows[0])


class CascadeDrafter(Drafter):
    """Drafts by one round of `decoder`: the draft is the accepted tokens and the one that the decoder's target adds. name: the name of that
    target.

    If the decoder is lossless, its tokens have its target's distribution, and that becomes the draft's q. The distribution of a lenient
    decoder's tokens is not known, so they count as point masses. In both cases the review of the draft stays exact. (A round's length
    depends on draws made before its last token, never on that token's own draw, so q is right for every token.)
    """

    def __init__(self, decoder: Decoder, name: str = "draft"):
        self.decoder, self.name = decoder, name

    @property
    def models(self) -> dict[str, Runner]:
        return {self.name: self.decoder.target, **self.decoder.drafter.models}

    def check(self, sampling: Sampling) -> None:
        self.decoder.check(sampling)

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.decoder.prepare(prompt, max_new_tokens)

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.decoder.target.start(prompt, max_new_tokens)
        self.decoder.drafter.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        if limit == 0:
            return empty_draft(context.device)
        inner = self.decoder.round(context, limit, draws)
        tokens = torch.tensor(inner.tokens, device=context.device)
        rows = torch.tensor([0, *(node + 1 for node in inner.verdict.path)], device=context.device)
        q, confidence = self._laws(inner.logits.index_select(0, rows), tokens, draws)
        draft = Draft.chain(tokens, q, confidence=confidence)
        draft.__dict__["ids"] = inner.tokens
        return draft

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """Nothing is learnt from what the level above did with the draft: the decoder's own drafter has learnt from the decoder's
        rounds."""

    def _laws(self, logits: Tensor, tokens: Tensor, draws: Draws) -> tuple[Tensor | None, Tensor | None]:
        """Return q and confidence of n tokens, given the [n, V] logits that they follow: q is [n, V] for a lossless decoder under sampling,
        and otherwise None, with the model's own probability of each token, [n], as the confidence."""
        if self.decoder.lossless and not draws.is_greedy:
            return draws.law(logits), None
        return None, logits.float().softmax(-1).gather(1, tokens[:, None])[:, 0]


class RelayDrafter(Drafter):
    """Lets several drafters make one draft in turn. drafters: by name, in their order. lengths: drafter i goes on until the draft has
    lengths[0] + .. + lengths[i] tokens.

    The last proposal of a drafter is kept whole, so the draft may get longer than that; the next drafter then has fewer to add. A drafter
    that proposes nothing leaves the rest to the next. Each token's stage is the name of the drafter that proposed it.
    """

    def __init__(self, drafters: Mapping[str, Drafter], lengths: Sequence[int]):
        if len(drafters) != len(lengths):
            raise ValueError(f"lengths={list(lengths)} does not fit {len(drafters)} drafters ({', '.join(drafters)}); give one for each.")
        if unfit := [name for name, drafter in drafters.items() if drafter.needs_trees]:
            raise ValueError(f"{unfit[0]} drafts trees, and a relay joins chains; choose another drafter.")
        self.drafters, self.lengths = dict(drafters), tuple(lengths)

    @property
    def models(self) -> dict[str, Runner]:
        """All models of all drafters. A model that works at several levels has one name and is listed once."""
        return {name: runner for drafter in self.drafters.values() for name, runner in drafter.models.items()}

    def check(self, sampling: Sampling) -> None:
        for drafter in self.drafters.values():
            drafter.check(sampling)

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        for drafter in self.drafters.values():
            drafter.prepare(prompt, max_new_tokens)

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        for drafter in self.drafters.values():
            drafter.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        if limit == 0:
            return empty_draft(context.device)
        branch, parts, stages, until = context.fork(), [], [], 0
        for (name, drafter), length in zip(self.drafters.items(), self.lengths, strict=True):
            until = min(until + length, limit)
            while len(stages) < until:
                part = drafter.propose(branch, limit - len(stages), draws)
                if not len(part):
                    break
                branch.append(part.ids)
                parts.append(part)
                stages += [name] * len(part)
        return joined(parts, tuple(stages)) if parts else empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """Nothing is learnt: the lengths are given, and a drafter learns only from the rounds of the decoder that it belongs to."""


def joined(parts: Sequence[Draft], stages: tuple[str, ...]) -> Draft:
    """Join chains, each of which follows the one before, into one. If some have a q, the point masses of the others become rows of q with a
    single 1."""
    law = next((part.q for part in parts if part.q is not None), None)
    q = None if law is None else torch.cat([part.distributions(law) for part in parts])
    return Draft.chain(torch.cat([part.tokens for part in parts]), q, confidence=_confidence(parts), stages=stages)


def _confidence(parts: Sequence[Draft]) -> torch.Tensor | None:
    """Return the confidence of all parts, [N]. It is 1 for tokens of a part that has none, and None if no part has any."""
    if all(part.confidence is None for part in parts):
        return None
    known = [torch.ones(len(p), device=p.tokens.device) if p.confidence is None else p.confidence for p in parts]
    return torch.cat(known)
