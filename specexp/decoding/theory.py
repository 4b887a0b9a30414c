"""What speculative decoding can gain in theory: expected tokens per round, predicted speedup, best draft length.

The notation is that of Leviathan, Kalman and Matias 2023 (arXiv:2211.17192): alpha is the probability that a drafted token is accepted
(their Corollary 3.6: the expectation of sum_x min(p(x), q(x))), and gamma is the number of tokens drafted. Costs are in units of one
autoregressive step. For example, alpha = 0.8 and gamma = 4 give 1 + 0.8 + 0.64 + 0.512 + 0.41 = 3.36 tokens per round; if drafting one
token costs 0.1 of a step, the predicted speedup is 3.36 / (1 + 4 * 0.1) = 2.4.

The formulas with alpha assume that acceptance is independent from token to token. Real acceptance is not; where it was measured for each
position, give those rates instead. This module knows only numbers and imports nothing of the project, so that the cost model and the
evaluation can share it.
"""
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul


def expected_tokens(alpha: float, gamma: int) -> float:
    """Return the expected tokens of one round, the target's own included, when each drafted token is accepted independently:
    (1 - alpha^(gamma+1)) / (1 - alpha) (Leviathan et al. 2023, Eq. (1)).

    Raises ValueError for an alpha outside [0, 1] or a negative gamma.
    """
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(f"expected_tokens wants 0 <= alpha <= 1 and gamma >= 0, got alpha={alpha}, gamma={gamma}")
    return expected_tokens_from_rates([alpha] * gamma)


def expected_tokens_from_rates(rates: Sequence[float]) -> float:
    """Return the same when rates[k] is the probability that token k+1 is accepted, given that all before it were:
    1 + sum_k prod_{i<=k} rates[i]. For example, [0.8, 0.5] gives 1 + 0.8 + 0.8 * 0.5 = 2.2."""
    return 1.0 + sum(accumulate(rates, mul))


def predicted_speedup(
    expected_tokens: float, gamma: float, cost_ratio: float, verify_ratio: float = 1.0, overhead: float = 0.0
) -> float:
    """Return autoregressive time per token divided by speculative time per token: E / (v + gamma c + o).

    This is Theorem 3.8 of Leviathan et al. 2023, where v = 1 and o = 0. `cost_ratio` c is the time of drafting one token, `verify_ratio` v
    that of the target's pass over the draft, and `overhead` o that of everything else in a round. Raises ValueError when a round would take
    no time.
    """
    cost = verify_ratio + gamma * cost_ratio + overhead
    if cost <= 0:
        raise ValueError(f"predicted_speedup wants a round that takes time, got verify_ratio + gamma * cost_ratio + overhead = {cost}")
    return expected_tokens / cost


def throughputs(rates: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Return the tokens per unit of time at gamma = 0 .. len(rates). `costs[gamma]` is the time of a whole round, and `rates` are as above.

    The best gamma is the argmax of the answer; at 0 the round is one autoregressive step. For example, rates [0.8, 0.5] and costs
    [10, 12, 14] give [1 / 10, 1.8 / 12, 2.2 / 14] = [0.1, 0.15, 0.157], so 2 is best. Raises ValueError for a round that takes no time.
    """
    if len(costs) != len(rates) + 1 or min(costs) <= 0:
        raise ValueError(f"throughputs wants a positive cost for each of gamma = 0..{len(rates)}, got {list(costs)}")
    tokens = accumulate(accumulate(rates, mul), initial=1.0)
    return [expected / cost for expected, cost in zip(tokens, costs, strict=True)]


def best_length(
    alpha: float, cost_ratio: float, max_length: int, verify: Callable[[int], float] = lambda gamma: 1.0, overhead: float = 0.0
) -> int:
    """Return the gamma in 0..max_length with the highest predicted speedup, the smallest of equally good ones. 0 means that speculation
    does not pay.

    `verify(gamma)` is the time of the target's pass over gamma drafted tokens and one more. With v = 1 and o = 0 the answer is above 0
    exactly if alpha > cost_ratio (Leviathan et al. 2023, Corollary 3.9).
    """
    def speedup(gamma: int) -> float:
        return predicted_speedup(expected_tokens(alpha, gamma), gamma, cost_ratio, verify(gamma), overhead)

    return max(range(max_length + 1), key=speedup)
