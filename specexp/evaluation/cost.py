"""Where a round's time went, and the speedup those costs allow: c, v, the overhead, predicted speedup, efficiency.

The unit is the baseline's time per token. A side that does not know its time inside the target or the drafter gets None, never a guess.
"""
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul

from specexp.evaluation.acceptance import conditional_rates, steps_of
from specexp.evaluation.quotient import quotient
from specexp.theory import expected_tokens, predicted_speedup


def cost_figures(sides: Sequence[dict], baseline_tpot: float | None, speedup: float | None) -> dict[str, float | None]:
    """Of one side, its baseline's seconds per token and its measured speedup.

    `cost_ratio_c` = drafting one token, `verify_ratio_v` = the target's pass of a round (averaged over all rounds, those that drafted
    nothing too). `overhead_ms_per_round` = the rest of the decode time. `predicted_speedup` puts the acceptance rates measured by position,
    c and v into Leviathan et al. 2023, Theorem 3.8, without any overhead, so that `efficiency` = measured / predicted is the share of the
    possible speedup that the loop itself leaves. Both are None when nothing was drafted.
    """
    rounds, drafted = sum(len(s["rounds"]) for s in sides), sum(r[0] for s in sides for r in s["rounds"])
    target, draft = _total(sides, "target_seconds"), _total(sides, "draft_seconds")
    c = quotient(quotient(draft, drafted), baseline_tpot)
    v = quotient(quotient(target, rounds), baseline_tpot)
    predicted = predicted_speedup(expected_per_round(sides), drafted / rounds, c, v) if c is not None and v else None
    return {
        "cost_ratio_c": c,
        "verify_ratio_v": v,
        "overhead_ms_per_round": _overhead_ms(sides, target, draft, rounds),
        "predicted_speedup": predicted,
        "efficiency": quotient(speedup, predicted),
    }


def _total(sides: Sequence[dict], key: str) -> float | None:
    seconds = [side[key] for side in sides]
    return None if None in seconds else sum(seconds)


def _overhead_ms(sides: Sequence[dict], target: float | None, draft: float | None, rounds: int) -> float | None:
    if target is None or draft is None or not rounds:
        return None
    return 1000 * (sum(s["decode_seconds"] for s in sides) - target - draft) / rounds


def expected_per_round(sides: Sequence[dict]) -> float:
    """Mean of theory's expected tokens over all rounds, from the rates by position and each round's depth (0: the target's token alone).

    Of trees the tokens that there were: their rates depend on the path. Raises ValueError when there is no round.
    """
    steps = [step for side in sides for step in steps_of(side)]
    kept_in_trees = [1 + step.accepted for step in steps if step.depth < step.drafted]
    steps = [step for step in steps if step.depth == step.drafted]
    survival = list(accumulate((rate or 0.0 for rate in conditional_rates(steps)), mul))
    by_depth = list(accumulate(survival, initial=1.0))
    rounds = sum(len(side["rounds"]) for side in sides)
    if not rounds:
        raise ValueError("expected_per_round wants at least one round")
    return (sum(by_depth[step.depth] for step in steps) + sum(kept_in_trees) + rounds - len(steps) - len(kept_in_trees)) / rounds


def predicted_curve(alpha: float, cost_ratio: float, verify_ratios: Mapping[int, float]) -> dict[int, float]:
    """gamma -> predicted speedup, for every gamma from the least to the largest that v was measured at; between two, v goes straight."""
    known = sorted(verify_ratios)
    curve = {}
    for gamma in range(known[0], known[-1] + 1):
        low, high = max(g for g in known if g <= gamma), min(g for g in known if g >= gamma)
        share = (gamma - low) / (high - low) if high > low else 0.0
        v = (1 - share) * verify_ratios[low] + share * verify_ratios[high]
        curve[gamma] = predicted_speedup(expected_tokens(alpha, gamma), gamma, cost_ratio, v)
    return curve
