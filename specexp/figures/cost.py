"""Where the time of a run went, and what speedup its costs allow, from records and from the cost curve in environment.json.

A round has three phases: drafting, the target's pass, and the host's part (verifying and the loop itself). A side that knows its time
inside the models (on CPU) has it in its records. On other devices calls return before the work is done, so both are reckoned from the
rounds and from the cost curve, which says what a pass takes by its width and was measured before the records. Either way the host's part
is the rest of the decode time, so what the curve gets wrong is in it. What is neither known nor to be reckoned is None and never a guess.

c and v are the costs of drafting a token and of the target's pass in units of the baseline's time per token. SWI, the standardised
walltime improvement, is the speedup that given costs per pass would make, whatever the machine did: tokens x cost(target) / sum over
models of passes x cost (Cascade Speculative Drafting, arXiv:2312.11462, section 5; drafters without a model are free). In it a pass costs
the same however many tokens it scores, which flatters long drafts; `efficiency` says what was measured.

Knows neither how passes are timed (specexp.experiment.pass_timing) nor what other draft lengths would have gained (bounds.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from operator import mul

from specexp.decoding.theory import expected_tokens, predicted_speedup
from specexp.figures.acceptance import conditional_rates, depth, pooled, quotient, steps_of
from specexp.figures.record import SideRecord


def cost_figures(sides: Sequence[SideRecord], baseline_tpot: float | None, speedup: float | None) -> dict[str, float | None]:
    """Of one side, its baseline's seconds per token and its measured speedup.

    `cost_ratio_c` = drafting one token, `verify_ratio_v` = the target's pass of a round. `overhead_ms_per_round` = the rest of the decode
    time. All are means over the timed rounds, those that drafted nothing too. `predicted_speedup` puts the acceptance rates measured by
    position, c and v into Leviathan et al. 2023, Theorem 3.8, without any overhead, so that `efficiency` = measured / predicted is the
    share of the possible speedup that the loop itself leaves. Both are None when nothing was drafted.
    """
    rounds, drafted, decode = (_total(sides, key) for key in ("rounds", "drafted", "decode_seconds"))
    target, draft = (_total(sides, key) for key in ("target_seconds", "draft_seconds"))
    c = quotient(quotient(draft, drafted), baseline_tpot)
    v = quotient(quotient(target, rounds), baseline_tpot)
    known = c is not None and v and any(side.timed_rounds for side in sides)
    predicted = predicted_speedup(expected_per_round(sides), drafted / rounds, c, v) if known else None
    return {
        "cost_ratio_c": c,
        "verify_ratio_v": v,
        "overhead_ms_per_round": None if target is None or draft is None or not rounds else 1000 * (decode - target - draft) / rounds,
        "predicted_speedup": predicted,
        "efficiency": quotient(speedup, predicted),
    }


def _total(sides: Sequence[SideRecord], key: str) -> float | None:
    """Over all repeats of all sides; None where one of them does not know it."""
    values = [getattr(repeat, key) for side in sides for repeat in side.repeats]
    return None if None in values else sum(values)


def expected_per_round(sides: Sequence[SideRecord]) -> float:
    """Mean of theory's expected tokens over the timed rounds, from the rates by position, those of all rounds, and each round's depth (0:
    the target's token alone).

    Of trees the tokens that there were: their rates depend on the path. Raises ValueError when no round was timed.
    """
    timed = [counts for side in sides for counts in side.timed_rounds]
    if not timed:
        raise ValueError("expected_per_round wants at least one round that was timed")
    chains = [step for step in pooled(sides) if not step.is_tree]
    survival = accumulate((rate or 0.0 for rate in conditional_rates(chains)), mul)
    by_depth = list(accumulate(survival, initial=1.0))
    steps = steps_of(timed)
    in_chains = [by_depth[step.depth] for step in steps if not step.is_tree]
    in_trees = [1 + step.accepted for step in steps if step.is_tree]
    return (sum(in_chains) + sum(in_trees) + len(timed) - len(in_chains) - len(in_trees)) / len(timed)


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


@dataclass(frozen=True)
class CostCurve:
    """Medians of `repeats` passes after a context of `context_tokens` tokens.

    target_seconds[i]: the target's pass over widths[i] tokens (ascending; width 1 is an autoregressive step). draft_seconds: of one drafted
    token, by draft model; None where that was not measured. weight_bytes, kv_bytes: what a pass of width 1 reads. bandwidth: bytes per
    second that the device's memory gives, None where that was not measured.
    """

    context_tokens: int
    repeats: int
    widths: Sequence[int]
    target_seconds: Sequence[float]
    draft_seconds: Mapping[str, float | None]
    weight_bytes: int
    kv_bytes: int
    bandwidth: float | None = None

    @property
    def autoregressive(self) -> float:
        """Seconds of the target's pass over one token."""
        return self.target_seconds[0]

    def target(self, width: int) -> float:
        """Seconds of the target's pass over `width` tokens: on straight lines between what was measured, the last one drawn on. No pass is
        reckoned cheaper than a narrower one: where it was measured so, the machine was busy with something else."""
        if len(self.widths) == 1:
            return self.autoregressive
        right = min(max(bisect_left(self.widths, width), 1), len(self.widths) - 1)
        (x, x2), (y, y2) = self.widths[right - 1 : right + 1], list(accumulate(self.target_seconds, max))[right - 1 : right + 1]
        return y + (y2 - y) * (width - x) / (x2 - x)

    @property
    def drafted_token(self) -> float | None:
        """Seconds of one drafted token: 0 without a draft model (what drafting takes is the host's), None where several share the work or
        nothing was measured."""
        costs = list(self.draft_seconds.values())
        return 0.0 if not costs else costs[0] if len(costs) == 1 else None

    def record(self) -> dict[str, object]:
        return asdict(self)


def curve_of(environment: Mapping[str, object]) -> CostCurve | None:
    """The curve that the latest of a run's sessions measured; None where none did. environment: the content of environment.json."""
    sessions = [environment, *reversed(environment.get("earlier_sessions", ()))]
    found = next((session["cost_curve"] for session in sessions if session.get("cost_curve")), None)
    return None if found is None else CostCurve(**found)


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


def phases(sides: Sequence[SideRecord], curve: CostCurve | None) -> Phases | None:
    """Of one side's timed rounds. None where no time was measured, or that inside the models is neither known nor to be reckoned."""
    rounds, decode, target, draft = (_total(sides, key) for key in ("rounds", "decode_seconds", "target_seconds", "draft_seconds"))
    timed = [counts for side in sides for counts in side.timed_rounds]  # of the recorded texts
    if not timed or not rounds or not decode:
        return None
    if target is not None and draft is not None:
        return Phases(decode / rounds, draft / rounds, target / rounds, "clock")
    if curve is None or curve.drafted_token is None:
        return None
    passes = sum(curve.target(1 + counts[0]) for counts in timed)
    return Phases(decode / rounds, sum(map(depth, timed)) * curve.drafted_token / len(timed), passes / len(timed), "curve")


def swi_figures(sides: Sequence[SideRecord], tables: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """`swi_TABLE` for each table of costs per pass, in any unit, of "target" and the draft models by name.

    None where a model ran that the table lacks, or nothing ran.
    """
    passes = {"target": sum(side.target_forwards for side in sides)}
    for side in sides:
        for name, count in side.draft_forwards_by_model.items():
            passes[name] = passes.get(name, 0) + count
    tokens = sum(side.tokens for side in sides)
    return {f"swi_{name}": _swi(tokens, passes, costs) for name, costs in tables.items()}


def _swi(tokens: int, passes: Mapping[str, int], costs: Mapping[str, float]) -> float | None:
    if any(count and name not in costs for name, count in passes.items()):
        return None
    return quotient(tokens * costs.get("target", 0.0), sum(count * costs[name] for name, count in passes.items() if count))
