"""Cascade Speculative Drafting (Chen et al. 2023, arXiv:2312.11462, Algorithm 1): vertical and horizontal cascades by one matrix.

Draft models are ordered from the biggest to the smallest, and a drafter without a model comes last. Row 0 of K says how many tokens each
of them adds to the target's draft; rows and columns behind model i's own say how many each smaller one adds to what model i reviews.
Knows nothing of caches or of how reviewers judge.

A vertical cascade: a drafter that is itself a decoder. One of its rounds is the draft: what a smaller model's proposals
became under a bigger model's review, so the bigger one never drafts token by token (Chen et al. 2023, arXiv:2312.11462, section 3.1).

Knows nothing of K matrices or of how many levels there are.

A horizontal cascade: drafters that take turns by position. The first tokens of a draft are the likeliest to be kept, so the best
drafter makes them; later ones are left to cheaper drafters (Chen et al. 2023, arXiv:2312.11462, section 3.2).

Knows nothing of what the drafters are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, Runner, Verdict, Verifier
from specexp.decoding.sampling import Draws


class KMatrix:
    """rows: n x n whole numbers for n drafters, of which the upper triangle is used. pair: the models whose number it has to fit."""

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
    """What drafts for the target. runners: the draft models, biggest first. statistical: the last drafter, `name` its stage.

    reviewer: how each draft model judges what smaller drafters propose to it.
    """
    return _relay([*runners.items()], statistical, name, k_matrix.rows, reviewer)


def _relay(
    models: list[tuple[str, Runner]], statistical: Drafter, name: str, rows: Sequence[Sequence[int]], reviewer: Verifier
) -> RelayDrafter:
    """One level: K's first row relays over the models, each of which reviews a relay over the smaller ones by the rest of K."""
    stages: dict[str, Drafter] = {}
    for place, (model, runner) in enumerate(models, start=1):
        rest = [row[place:] for row in rows[place:]]
        inner = _relay(models[place:], statistical, name, rest, reviewer)
        stages[model] = CascadeDrafter(Decoder(runner, inner, reviewer), model)
    return RelayDrafter(stages | {name: statistical}, rows[0])


class CascadeDrafter(Drafter):
    """Each draft is one round of `decoder`: accepted tokens and the one its target adds. name: of that target.

    An exact decoder's tokens have its target's law, which is handed up as q. Those of a lenient one have no law that anybody knows, so
    they are point masses. Either way whoever reviews them stays exact. (A round's length depends on draws that were made before its
    last token's, never on that token's own, so q holds for every token there is.)
    """

    def __init__(self, decoder: Decoder, name: str = "draft"):
        self.decoder, self.name = decoder, name

    @property
    def models(self) -> dict[str, Runner]:
        return {self.name: self.decoder.target, **self.decoder.drafter.models}

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
        """What the level above did with the draft changes nothing here: the decoder's own drafter was told by its own rounds."""

    def _laws(self, logits: Tensor, tokens: Tensor, draws: Draws) -> tuple[Tensor | None, Tensor | None]:
        """[n, V] logits behind which the n tokens stand -> (q or None for point masses, the model's own probability of each token)."""
        if self.decoder.lossless and not draws.is_greedy:
            return draws.law(logits), None
        return None, logits.float().softmax(-1).gather(1, tokens[:, None])[:, 0]


class RelayDrafter(Drafter):
    """drafters: by name, in their order. lengths: drafter i goes on until there are lengths[0] + .. + lengths[i] tokens.

    A drafter may overshoot its mark, as its last proposal is kept whole; one that proposes nothing leaves the rest to the next.
    Each token's stage is the name of the drafter that proposed it.
    """

    def __init__(self, drafters: Mapping[str, Drafter], lengths: Sequence[int]):
        if len(drafters) != len(lengths):
            raise ValueError(f"lengths={list(lengths)} does not fit {len(drafters)} drafters ({', '.join(drafters)}); give one for each.")
        if unfit := [name for name, drafter in drafters.items() if drafter.needs_trees]:
            raise ValueError(f"{unfit[0]} drafts trees, and a relay joins chains; choose another drafter.")
        self.drafters, self.lengths = dict(drafters), tuple(lengths)

    @property
    def models(self) -> dict[str, Runner]:
        """One that works at several levels is one model: it has one name."""
        return {name: runner for drafter in self.drafters.values() for name, runner in drafter.models.items()}

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
        """Nobody learns here: lengths are given, and a drafter sees its own proposals judged only in a cascade's rounds."""


def joined(parts: Sequence[Draft], stages: tuple[str, ...]) -> Draft:
    """Chains, each behind the one before, as one chain. Point masses among laws are written out as one-hot rows of q."""
    law = next((part.q for part in parts if part.q is not None), None)
    q = None if law is None else torch.cat([part.distributions(law) for part in parts])
    return Draft.chain(torch.cat([part.tokens for part in parts]), q, confidence=_confidence(parts), stages=stages)


def _confidence(parts: Sequence[Draft]) -> torch.Tensor | None:
    """[N], 1 for tokens of a drafter that has no model of its own; None if none has."""
    if all(part.confidence is None for part in parts):
        return None
    known = [torch.ones(len(p), device=p.tokens.device) if p.confidence is None else p.confidence for p in parts]
    return torch.cat(known)
