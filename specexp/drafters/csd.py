"""Cascade Speculative Drafting (Chen et al. 2023, arXiv:2312.11462, Algorithm 1): vertical and horizontal cascades by one matrix.

Draft models are ordered from the biggest to the smallest, and a drafter without a model comes last. Row 0 of K says how many tokens each
of them adds to the target's draft; rows and columns behind model i's own say how many each smaller one adds to what model i reviews.
Knows nothing of caches or of how reviewers judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Drafter, Runner, Verifier
from specexp.drafters.cascade import CascadeDrafter
from specexp.drafters.relay import RelayDrafter


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
