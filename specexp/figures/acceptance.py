"""What became of the drafted tokens, from records alone: how many were accepted, at which positions, and where emitted tokens came from.

A record's round is [drafted, accepted], or [drafted, accepted, depth, leaves, refused] where the draft was a tree. Of a tree `drafted`
counts all nodes, `depth` is the length of its longest path (a chain's depth is `drafted`), and `leaves` is the number of its paths.
`refused` is 0 if the accepted path ends in a leaf, since then nothing after it was refused; of a chain it is 0 if all of it was accepted.

Rounds that drafted nothing are no speculation steps, and neither is the prefill, which is in no record's rounds. Names and definitions
are those of vLLM and Spec-Bench where they agree. The bonus token counts in acceptance lengths and in nothing else. A rate of nothing is
None: it is unknown, not zero. Knows nothing of seconds (see speed.py and cost.py), nor of models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from specexp.figures.record import SideRecord


@dataclass(frozen=True)
class Step:
    """One speculation step; `accepted` draft tokens, the token the target adds not among them."""
    drafted: int
    accepted: int
    depth: int
    leaves: int
    refused: bool

    @property
    def is_tree(self) -> bool:
        return self.depth < self.drafted


def steps_of(rounds: Iterable[Sequence[int]]) -> list[Step]:
    """The rounds that drafted something. Raises ValueError for a round that accepts more than it drafted: a decoder's defect."""
    steps = [_step(*counts) for counts in rounds if counts[0]]
    if broken := [step for step in steps if not 0 <= step.accepted <= step.depth <= step.drafted]:
        raise ValueError(f"a round cannot accept {broken[0].accepted} of {broken[0].drafted} drafted tokens in a path of {broken[0].depth}")
    return steps


def pooled(sides: Iterable[SideRecord]) -> list[Step]:
    """The speculation steps of all of the sides."""
    return steps_of(counts for side in sides for counts in side.rounds)


def depth(counts: Sequence[int]) -> int:
    """Draft passes that a round's draft took: a chain's length, a tree's depth."""
    return counts[2] if len(counts) > 2 else counts[0]


def _step(drafted: int, accepted: int, depth: int | None = None, leaves: int = 1, refused: int | None = None) -> Step:
    depth = drafted if depth is None else depth
    return Step(drafted, accepted, depth, leaves, accepted < depth if refused is None else bool(refused))


def acceptance_figures(sides: Sequence[SideRecord]) -> dict[str, float | int | None]:
    """Counters and rates over all steps of all sides, flat; every rate is None when nothing was drafted.

    `mean_acceptance_length` = 1 + accepted / steps, pooled; `..._macro` = the mean of the requests' own (those that drafted).
    `draft_acceptance_rate` = accepted / drafted. `alpha` = accepted / (accepted + rejections), the maximum likelihood of a rate that is
    the same at every position, where a step whose path could have gone on holds one rejection.
    """
    if any(told_totals(side) for side in sides):
        return totals_figures(sides)
    by_request = [steps_of(side.rounds) for side in sides]
    steps = [step for request in by_request for step in request]
    accepted, drafted = sum(s.accepted for s in steps), sum(s.drafted for s in steps)
    rejections = sum(s.refused for s in steps)
    macro = [_mean_length(request) for request in by_request if request]
    return {
        "num_spec_steps": len(steps),
        "num_draft_tokens": drafted,
        "num_accepted_draft_tokens": accepted,
        "mean_acceptance_length": _mean_length(steps),
        "mean_acceptance_length_macro": quotient(sum(macro), len(macro)),
        "draft_acceptance_rate": quotient(accepted, drafted),
        "alpha": quotient(accepted, accepted + rejections),
        **{f"conditional_acceptance_rate_{k}": rate for k, rate in enumerate(conditional_rates(steps), 1)},
        **{f"joint_acceptance_rate_{k}": rate for k, rate in enumerate(joint_rates(steps), 1)},
    }


@dataclass(frozen=True)
class Totals:
    """Counts of one text whose steps are not known one by one; None where a count is not known either. histogram: [a] = the steps that
    accepted exactly a draft tokens."""
    steps: int | None
    drafted: int | None
    accepted: int | None
    histogram: Sequence[int] | None


def told_totals(side: SideRecord) -> Totals | None:
    """What a server reports of its own speculation in totals; None of a side whose rounds are known, and of one that reports nothing."""
    told = side.speculation
    if side.rounds or not told:
        return None
    counts = (told.get(f"num_{key}") for key in ("spec_steps", "draft_tokens", "accepted_draft_tokens"))
    return Totals(*counts, told.get("acceptance_histogram"))


def totals_of(side: SideRecord) -> Totals | None:
    """Those that are told, or else counted from the rounds; None where neither is known."""
    if side.token_ids is None and not side.rounds:
        return told_totals(side)
    steps = steps_of(side.rounds)
    counts = Counter(step.accepted for step in steps)
    return Totals(len(steps), side.drafted, side.accepted, [counts[a] for a in range(max(counts, default=-1) + 1)])


def totals_figures(sides: Sequence[SideRecord]) -> dict[str, float | int | None]:
    """`acceptance_figures` of texts of which some are known in totals alone: what takes each step's own counts is None or left out. A count
    that one of the texts lacks is None too."""
    known = [totals for side in sides if (totals := totals_of(side))]
    steps, drafted, accepted = (_sum([getattr(each, key) for each in known]) for key in ("steps", "drafted", "accepted"))
    macro = [1 + each.accepted / each.steps for each in known if each.steps and each.accepted is not None]
    histograms = [each.histogram for each in known]
    return {
        "num_spec_steps": steps,
        "num_draft_tokens": drafted,
        "num_accepted_draft_tokens": accepted,
        "mean_acceptance_length": 1 + accepted / steps if steps and accepted is not None else None,
        "mean_acceptance_length_macro": quotient(sum(macro), len(macro)) if steps else None,
        "draft_acceptance_rate": quotient(accepted, drafted),
        "alpha": None,
        **({} if None in histograms or not steps else _joint_rates_of(histograms, steps)),
    }


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(counts)


def _joint_rates_of(histograms: Sequence[Sequence[int]], steps: int) -> dict[str, float]:
    longest = max((a for each in histograms for a, count in enumerate(each) if count), default=0)
    reached = {k: sum(sum(each[k:]) for each in histograms) for k in range(1, longest + 1)}
    return {f"joint_acceptance_rate_{k}": count / steps for k, count in reached.items()}


def tree_figures(sides: Sequence[SideRecord]) -> dict[str, float | int | None]:
    """DynaTree's statistics, where any draft was a tree; nothing elsewhere. The rates by depth are `conditional_acceptance_rate_K`."""
    steps = pooled(sides)
    if not any(step.is_tree for step in steps):
        return {}
    return {
        "total_tree_nodes": sum(s.drafted for s in steps),
        "total_paths_explored": sum(s.leaves for s in steps),
        "avg_accepted_path_length": quotient(sum(s.accepted for s in steps), len(steps)),
        "max_path_length_achieved": max(s.accepted for s in steps),
        "mean_tree_nodes": quotient(sum(s.drafted for s in steps), len(steps)),
    }


def length_figures(sides: Sequence[SideRecord]) -> dict[str, float | int | None]:
    """What a length rule decided: `mean_gamma` over all rounds, those that drafted nothing as 0 (a tree counts by its depth), and
    `gamma_histogram_G`, the number of rounds of each. `mean_entropy` (nats, of the law of the first drafted token) over the rounds
    whose length rule looked at it, and `entropy_histogram_B`, the number of those with B <= entropy < B + 1.
    """
    rounds = [counts for side in sides for counts in side.rounds]
    lengths = Counter(map(depth, rounds))
    entropies = [nats for side in sides for nats in side.entropies or () if nats is not None]
    bins = Counter(int(max(nats, 0.0)) for nats in entropies)
    return {
        "mean_gamma": quotient(sum(length * count for length, count in lengths.items()), len(rounds)),
        "mean_entropy": quotient(sum(entropies), len(entropies)),
        **{f"gamma_histogram_{length}": lengths[length] for length in sorted(lengths)},
        **{f"entropy_histogram_{edge}": bins[edge] for edge in sorted(bins)},
    }


def _mean_length(steps: Sequence[Step]) -> float | None:
    return 1 + sum(s.accepted for s in steps) / len(steps) if steps else None


def conditional_rates(steps: Sequence[Step]) -> list[float | None]:
    """P(token k accepted | token k drafted and those before it accepted) for k = 1, 2, ...; None where no step came so far. In a tree: that
    one of the k-th tokens after the accepted path is."""
    return [
        quotient(sum(s.accepted >= k for s in steps), sum(s.accepted >= k or (s.accepted == k - 1 and s.refused) for s in steps))
        for k in _positions(steps)
    ]


def joint_rates(steps: Sequence[Step]) -> list[float | None]:
    """P(at least k accepted) over all steps, short drafts included (vLLM's "per-position acceptance rate"); their sum is AL - 1."""
    return [quotient(sum(s.accepted >= k for s in steps), len(steps)) for k in _positions(steps)]


def _positions(steps: Sequence[Step]) -> range:
    return range(1, max((s.depth for s in steps), default=0) + 1)


def origin_figures(sides: Sequence[SideRecord]) -> dict[str, int]:
    """Emitted tokens by origin, `tokens_target`, `_draft`, `_bonus`, `_resample`; "draft:STAGE" is in both `_draft` and `_draft_STAGE`."""
    counts = Counter({"target": 0, "draft": 0, "bonus": 0, "resample": 0})
    for origin in (origin for side in sides for origin in side.origins):
        kind, _, stage = origin.partition(":")
        counts.update([kind, f"{kind}_{stage}"] if stage else [kind])
    return {f"tokens_{name}": count for name, count in counts.items()}


STAGES = 4  # styles for the stages of a cascade: draft0, draft1, ...
KINDS = ("target", "draft", "bonus", "resample")


@dataclass(frozen=True)
class Span:
    """A piece of text whose tokens have one origin; `style` is the origin, or draftN for the N-th stage in it. "": unknown."""

    style: str
    origin: str
    text: str


def spans(side: SideRecord) -> list[Span]:
    """The side's text in pieces whose tokens have one origin; in one piece without one where the record does not say where tokens end."""
    text, ends = side.text, side.ends
    if not ends:
        return [Span("", "", text)]
    pieces = [(origin, text[start:end]) for origin, start, end in zip(side.origins, [0, *ends], ends, strict=False)]
    stages = list(dict.fromkeys(origin for origin in side.origins if ":" in origin))
    found = [Span(_style(origin, stages), origin, joined) for origin, joined in _joined(pieces)]
    return [span for span in (*found, Span("", "", text[ends[-1] :])) if span.text]


def _joined(pieces: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for origin, group in groupby(pieces, key=lambda piece: piece[0]):
        yield origin, "".join(text for _, text in group)


def _style(origin: str, stages: Sequence[str]) -> str:
    return f"draft{stages.index(origin) % STAGES}" if origin in stages else origin


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """numerator / denominator, or None when either is None or the denominator is 0."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator
