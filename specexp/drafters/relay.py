"""A horizontal cascade: drafters that take turns by position. The first tokens of a draft are the likeliest to be kept, so the best
drafter makes them; later ones are left to cheaper drafters (Chen et al. 2023, arXiv:2312.11462, section 3.2).

Knows nothing of what the drafters are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, Runner, Scores, Verdict


class RelayDrafter:
    """drafters: by name, in their order. lengths: drafter i goes on until there are lengths[0] + .. + lengths[i] tokens.

    A drafter may overshoot its mark, as its last proposal is kept whole; one that proposes nothing leaves the rest to the next.
    Each token's stage is the name of the drafter that proposed it.
    """

    needs_trees = needs_hidden = False

    def __init__(self, drafters: Mapping[str, Drafter], lengths: Sequence[int]):
        if len(drafters) != len(lengths):
            raise ValueError(f"lengths={list(lengths)} does not fit {len(drafters)} drafters ({', '.join(drafters)}); give one for each.")
        if unfit := [name for name, drafter in drafters.items() if drafter.needs_trees or drafter.needs_hidden]:
            raise ValueError(f"{unfit[0]} drafts trees or needs the target's states, and a relay joins chains; choose another drafter.")
        self.drafters, self.lengths = dict(drafters), tuple(lengths)

    @property
    def models(self) -> dict[str, Runner]:
        """One that works at several levels is one model: it has one name."""
        return {name: runner for drafter in self.drafters.values() for name, runner in drafter.models.items()}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        for drafter in self.drafters.values():
            drafter.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        if limit == 0:
            return empty_draft(context.device)
        branch, parts, stages, until = context.fork(), [], [], 0
        for (name, drafter), length in zip(self.drafters.items(), self.lengths, strict=True):
            until = min(until + length, limit)
            while len(stages) < until:
                part = drafter.propose(branch, limit - len(stages), chance)
                if not len(part):
                    break
                branch.append(part.ids)
                parts.append(part)
                stages += [name] * len(part)
        return joined(parts, tuple(stages)) if parts else empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
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
