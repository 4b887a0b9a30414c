"""Greedy texts of two ways of decoding in 16 bits: where they part, was it a tie that rounding decided, or an error?

A pass over one token and one over several round differently. Where the two best logits lie closer together than that noise, either token
is right (a near-tie); a wider gap between the tokens chosen is a real divergence, of which a lossless method has none. After its first
divergence a text is another text, so only that one is judged. Pure functions on numbers.
"""

from __future__ import annotations

from collections.abc import Sequence


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Where the texts part; None where they agree as far as both go."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)


def noise_bound(differences: Sequence[float], share: float = 0.999) -> float:
    """The size that this share of the differences between logits of two widths stays within. Raises ValueError for none."""
    if not differences:
        raise ValueError("noise_bound wants at least one difference")
    ordered = sorted(abs(difference) for difference in differences)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def is_near_tie(gap: float, bound: float) -> bool:
    """gap: between the logits of the two tokens chosen. Each of the two logits may be off by the bound."""
    return abs(gap) <= 2 * bound
