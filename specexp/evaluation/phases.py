"""Where the time of a round goes: drafting, the target's pass, the host. Pure functions on records.

Sides that know their time inside drafter and target (on CPU) tell it. Elsewhere calls return before the work is done, and both are reckoned
from the rounds and the run's cost curve. The host's part is the rest of the decode time either way, so what the curve gets wrong is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specexp.evaluation.cost_curve import CostCurve


@dataclass(frozen=True)
class Phases:
    """Mean seconds of a round. source: "clock", or "curve" where drafting and the target's pass are reckoned."""

    round: float
    draft: float
    target: float
    source: str

    @property
    def host(self) -> float:
        return self.round - self.draft - self.target


def phases(sides: Sequence[dict], curve: CostCurve | None) -> Phases | None:
    """Of all rounds of one side. None where its time inside the models is neither known nor to be reckoned."""
    rounds = [counts for side in sides for counts in side["rounds"]]
    if not rounds:
        return None
    whole = sum(side["decode_seconds"] for side in sides) / len(rounds)
    target, draft = ([side[key] for side in sides] for key in ("target_seconds", "draft_seconds"))
    if None not in target and None not in draft:
        return Phases(whole, sum(draft) / len(rounds), sum(target) / len(rounds), "clock")
    if curve is None or curve.drafted_token is None:
        return None
    passes = sum(curve.target(1 + counts[0]) for counts in rounds)
    return Phases(whole, sum(map(depth, rounds)) * curve.drafted_token / len(rounds), passes / len(rounds), "curve")


def depth(counts: Sequence[int]) -> int:
    """Draft passes behind a round's draft: a chain's length, a tree's depth."""
    return counts[2] if len(counts) > 2 else counts[0]
