"""Where the time of a run went, and what speedup its costs allow, from records and from the cost curve in environment.json.

A round has three phases: drafting, the target's pass, and the host's part (verifying and the loop itself). A side that knows its time
inside the models (on CPU) has it in its records. On other devices calls return before the work is done, so both are reckoned from the
rounds and from the cost curve, which says what a pass takes by its width and was measured before the records. Either way the host's part
is the rest of the decode time, so what the curve gets wrong is in it. What is neither known nor to be reckoned is None and never a guess.

c and v are the costs of drafting a token and of the target's pass in units of the baseline's time per token. SWI, the standardised
walltime improvement, is the speedup that given costs per pass would make, whatever the machine did: tokens x cost(target) / sum over
models of passes x cost (Cascade Speculative Drafting, arXiv:2312.11462, section 5; drafters without a model are free). In it a pass costs
the same however many tokens it scores, which flatters long drafts; `efficiency` says what was measured.

The last part says what other draft lengths would have gained. There a round that drafts gamma tokens takes T(gamma + 1) + gamma t + h
seconds: T is the target's pass by its width and t a drafted token, both from the cost curve, and h is the host's part of a round. The
speedup is over the same model of autoregressive decoding, T(1) + h of the baseline. Costs are those at the curve's context; in longer texts
attention costs more.

How passes are timed is not known here (specexp.experiment.pass_timing).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from operator import mul

from specexp.decoding.theory import expected_tokens, predicted_speedup, throughputs
from specexp.figures.acceptance import acceptance_figures, conditional_rates, depth, pooled, quotient, steps_of
from specexp.figures.record import Record, SideRecord


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
