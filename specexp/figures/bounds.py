"""What a run could have gained with other draft lengths, from its records and its cost curve. These are pure functions.

A round that drafts gamma tokens takes T(gamma + 1) + gamma t + h seconds: T is the target's pass by its width and t a drafted token, both
from the cost curve, and h is the host's part of a round (cost.py has them all). The speedup is over the same model of autoregressive
decoding, T(1) + h of the baseline. Costs are those at the curve's context; in longer texts attention costs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specexp.decoding.theory import throughputs
from specexp.figures.acceptance import acceptance_figures, conditional_rates, depth, pooled, quotient
from specexp.figures.cost import CostCurve, phases
from specexp.figures.record import Record, SideRecord

LONGEST = 16  # drafted tokens that a best length is looked for up to, or as many as the run drafted


@dataclass(frozen=True)
class RoundModel:
    """token: seconds of a drafted token. host: of the rest of a round. autoregressive: of a token without speculation."""

    curve: CostCurve
    token: float
    host: float
    autoregressive: float

    def seconds(self, gamma: int, width: int | None = None) -> float:
        """Of a round with a draft `gamma` passes deep and a target pass `width` wide; a chain's by default."""
        return self.curve.target(gamma + 1 if width is None else width) + gamma * self.token + self.host

    def speedup(self, tokens: int, rounds: Sequence[float]) -> float | None:
        """Of so many tokens in rounds that take these seconds."""
        return quotient(tokens * self.autoregressive, sum(rounds))


def round_model(method: Sequence[SideRecord], baseline: Sequence[SideRecord], curve: CostCurve | None) -> RoundModel | None:
    """None where costs are missing. What a drafter of several models, or of none, takes per token is the records' mean."""
    spent = phases(method, curve)
    if curve is None or spent is None or len(curve.widths) < 2:  # what a draft costs to verify is not known
        return None
    rounds = [counts for side in method for counts in side.timed_rounds]
    token = curve.drafted_token
    if not token and spent.source == "clock":
        token = quotient(spent.draft * len(rounds), sum(map(depth, rounds))) or 0.0
    own = phases(baseline, curve)
    return RoundModel(curve, token, spent.host, curve.autoregressive + (own.host if own else 0.0))


def bound_figures(records: Sequence[Record], curve: CostCurve | None) -> dict[str, float | int | None]:
    """Flat; all None where the run has no curve, or its method is not a round of drafting and one pass.

    `best_gamma` = the draft length with most expected tokens per second, and `best_gamma_speedup` what it would gain, from the acceptance
    rates by position (beyond the longest draft: alpha); 0 says: do not speculate. `oracle_speedup` = every round had drafted exactly
    the tokens that were accepted; `oracle_open_rounds` of them were kept whole, so that a longer draft might have gained more.
    `modelled_speedup` = the rounds as they were, by the curve: as near to the measured one as the curve is to the run.
    """
    method, baseline = [record.method for record in records], [record.baseline for record in records if record.baseline is not None]
    model = round_model(method, baseline, curve)
    rounds = [counts for side in method for counts in side.rounds]
    steps = pooled(method)
    if model is None or not steps:
        return dict.fromkeys(("best_gamma", "best_gamma_speedup", "oracle_speedup", "oracle_open_rounds", "modelled_speedup"))
    gamma, speedup = best_gamma(method, model)
    tokens = sum(1 + counts[1] for counts in rounds)
    return {
        "best_gamma": gamma,
        "best_gamma_speedup": speedup,
        "oracle_speedup": model.speedup(tokens, [model.seconds(counts[1]) for counts in rounds]),
        "oracle_open_rounds": sum(not step.refused for step in steps),
        "modelled_speedup": model.speedup(tokens, [model.seconds(depth(counts), 1 + counts[0]) for counts in rounds]),
    }


def best_gamma(sides: Sequence[SideRecord], model: RoundModel) -> tuple[int, float]:
    """(length of chain, its speedup), the shortest of equals. Wants at least one speculation step."""
    rates = conditional_rates(pooled(sides))
    alpha = acceptance_figures(sides)["alpha"]
    known = [alpha if rate is None else rate for rate in rates]
    known += [alpha] * (LONGEST - len(known))
    costs = [model.autoregressive, *(model.seconds(gamma) for gamma in range(1, len(known) + 1))]
    speeds = throughputs(known, costs)
    best = max(range(len(speeds)), key=speeds.__getitem__)
    return best, speeds[best] / speeds[0]


def bandwidth_utilisation(curve: CostCurve | None, bandwidth: float | None = None) -> float | None:
    """Share of the memory's bandwidth (bytes per second; the curve's own by default) that an autoregressive pass uses: (weights + keys and
    values) / its seconds / bandwidth. None where none is known."""
    bandwidth = bandwidth or (curve and curve.bandwidth)
    return None if curve is None or not bandwidth else quotient((curve.weight_bytes + curve.kv_bytes) / curve.autoregressive, bandwidth)
