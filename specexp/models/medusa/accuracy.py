"""How often a head's guess of each rank is the token that really comes: what a static tree is searched from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from specexp.models.medusa.heads import MedusaHeads
from specexp.models.medusa.states import NONE, States

RANKS = 10
BATCH = 16  # texts at a time


@torch.no_grad()
def accuracies(heads: MedusaHeads, states: States, ranks: int = RANKS) -> tuple[list[list[float]], int]:
    """([K][ranks], places): the share of places where head i's guess of rank r is right. 0 where no text is long enough to tell."""
    hits = torch.zeros(len(heads), ranks, dtype=torch.int64)
    asked, seen = torch.zeros(len(heads), dtype=torch.int64), 0
    for hidden, labels in _batches(states):
        hidden, seen = hidden.to(heads.output.dtype), seen + len(hidden)
        for head in range(len(heads)):
            known = labels[:, head] != NONE
            guesses = heads.one(head, hidden[known]).topk(ranks, -1).indices
            hits[head] += (guesses == labels[known, head, None]).sum(0).cpu()
            asked[head] += int(known.sum())
    shares = hits / asked.clamp(min=1)[:, None]
    return [[round(share, 5) for share in row] for row in shares.tolist()], seen


def table(measured: list[list[float]]) -> str:
    """Lines: by head, the share of tokens among its 1, 2, .. best guesses."""
    ranks = [rank for rank in (1, 2, 3, 4, 5, 10) if rank <= len(measured[0])]
    lines = ["head  " + "".join(f"{f'top {rank}':>8}" for rank in ranks)]
    lines += [f"{head:<6}" + "".join(f"{sum(row[:rank]):>8.3f}" for rank in ranks) for head, row in enumerate(measured)]
    return "\n".join(lines)


def _batches(states: States) -> Iterator[tuple[Tensor, Tensor]]:
    for at in range(0, len(states.texts), BATCH):
        yield states(range(at, min(at + BATCH, len(states.texts))))
