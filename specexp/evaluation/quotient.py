"""Division that answers None where there is nothing to divide by: a rate of nothing is unknown, not zero and not a crash."""


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """numerator / denominator, or None when either is None or the denominator is 0."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator
