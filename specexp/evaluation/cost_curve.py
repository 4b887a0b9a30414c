"""What a model pass of a run costs by its width, as measured before the records, and read from environment.json again.

Knows numbers; not how they were measured (specexp.pass_timing) nor what speeds follow from them (bounds.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate


@dataclass(frozen=True)
class CostCurve:
    """Medians of `repeats` passes behind a context of `context_tokens` tokens.

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
