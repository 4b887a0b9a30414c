"""How a token is drawn: `Sampling` turns logits into the distribution that is sampled from, and `Draws` holds the randomness of one
generation. Target and draft are sampled by the same rule.

Temperature 0 means argmax: p is then 1 for one id, so the rejection rule needs no second algorithm for greedy decoding. The order is that
of transformers: temperature, then top-k, then nucleus. Exactly k ids remain after top-k even when several are equally likely, so top-k 1 is
never random. A generation is seeded once, from (seed, example, sample), so it can be repeated without the generations before it. Tests
replace `Draws` to go through every outcome with its probability.
"""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

NUCLEUS = 512  # ids that a nucleus is looked for among, before all are sorted
NUMPYS = (torch.float32, torch.float64)
TINY = torch.finfo(torch.float32).tiny  # the smallest normal float32, so that a division by a tiny temperature is not one by 0


@dataclass(frozen=True)
class Sampling:
    """The sampling rule. conf/sampling names the common ones: greedy is temperature 0, multinomial is a temperature alone, and topk,
    nucleus and topknucleus add top_k, top_p or both."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < inf:
            raise ValueError(f"sampling.temperature={self.temperature} is no temperature; 0 means greedy, 1 the model's own distribution.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"sampling.top_k={self.top_k} keeps no token; give 1 or more, or null to keep all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p={self.top_p} is not in (0, 1]; give a probability mass, or null to keep all.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def __call__(self, logits: Tensor) -> Tensor:
        """Turn [..., V] logits into [..., V] probabilities, in float32 or better."""
        if self.is_greedy:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = (logits - logits.amax(-1, keepdim=True)) / max(self.temperature, TINY)  # at most 0, so it can overflow only to -inf
        return self._nucleus(self._top_k(logits).softmax(-1))

    def _top_k(self, logits: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= logits.shape[-1]:
            return logits
        values, ids = logits.topk(self.top_k, dim=-1)
        return torch.full_like(logits, float("-inf")).scatter_(-1, ids, values)

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """Keep the smallest set of most likely ids whose probabilities add up to top_p or more, and scale them to a sum of 1 (Holtzman et
        al. 2020). With top_p 0.7, (0.5, 0.3, 0.2) becomes (0.625, 0.375, 0)."""
        if self.top_p is None or self.top_p == 1:
            return probabilities
        kept = self._likeliest(probabilities) if probabilities.is_cpu else self._sorted(probabilities)
        return kept / kept.sum(-1, keepdim=True)

    def _sorted(self, probabilities: Tensor) -> Tensor:
        """Return [..., V] with everything outside the nucleus set to 0. Of equally likely ids those with smaller numbers come first."""
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= self.top_p, 0.0)
        return torch.zeros_like(probabilities).scatter_(-1, ids, ordered)

    def _likeliest(self, probabilities: Tensor) -> Tensor:
        """Return the same as `_sorted`. Sorting a whole vocabulary takes a CPU longer than a small model's pass, and a nucleus is mostly
        small: only rows whose NUCLEUS likeliest ids do not hold it, or in which ids at its edge are equally likely, are sorted."""
        rows = probabilities.reshape(-1, probabilities.shape[-1])
        if rows.shape[-1] <= NUCLEUS:
            return self._sorted(probabilities)
        ordered, ids = rows.topk(NUCLEUS, dim=-1)
        outside = ordered.cumsum(-1) - ordered >= self.top_p
        kept = torch.zeros_like(rows).scatter_(-1, ids, ordered.masked_fill(outside, 0.0))
        inside = (~outside).sum(-1, keepdim=True)  # 1 or more
        edge, beyond = ordered.gather(-1, inside - 1), ordered.gather(-1, inside.clamp(max=NUCLEUS - 1))
        unsure = ((inside == NUCLEUS) | (edge == beyond))[:, 0]
        if unsure.any():
            kept[unsure] = self._sorted(rows[unsure])
        return kept.reshape(probabilities.shape)


GREEDY = Sampling()


class Draws:
    """One generation's sampling rule and its randomness, on one device. Uniform numbers are float64 where the device has that type (CPU
    and CUDA).

    seed: any values, such as (seed, example, sample).
    """

    def __init__(self, sampling: Sampling = GREEDY, seed: tuple = (), device: torch.device | str = "cpu"):
        digest = hashlib.sha256(repr(tuple(seed)).encode()).digest()
        self.sampling, self.is_greedy = sampling, sampling.is_greedy
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        self.dtype = torch.float64 if torch.device(device).type in ("cpu", "cuda") else torch.float32

    def greedily(self) -> Draws:
        """Return the same randomness with the greedy rule, as it is used between the models of a cascade."""
        if self.is_greedy:
            return self
        other = copy(self)
        other.sampling, other.is_greedy = GREEDY, True
        return other

    def law(self, logits: Tensor) -> Tensor:
        """Turn [..., V] logits into the [..., V] probabilities that tokens are drawn with."""
        return self.sampling(logits)

    def token(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draw one token per row of [..., V] logits. Returns the tokens and the distributions they were drawn from, or None in place of
        those under greedy sampling, where nothing is drawn."""
        if self.is_greedy:
            return best(logits), None
        q = self.sampling(logits)
        return self.draw(q), q

    def uniform(self, *shape: int) -> Tensor:
        """Draw r ~ U[0, 1) in the given shape."""
        return torch.rand(shape, generator=self.generator, dtype=self.dtype, device=self.generator.device)

    def accept(self, p: Tensor, q: Tensor) -> Tensor:
        """Return [n] bool, each true with probability min(1, p/q), for p and q of [n]. Where q is 0 it is true unless p is 0 too. The host
        does not wait for the device."""
        return self.uniform(*p.shape) * q < p

    def draw(self, weights: Tensor) -> Tensor:
        """Draw one id per row of [..., V] weights, which are not negative and need not add up to 1. An id of weight 0 is never drawn. The
        host does not wait for the device.

        NaN weights give some id and no error, because an error inside a CUDA kernel would leave the device unusable. A model that gives
        NaN can be told by its likelihoods.
        """
        if self.dtype == torch.float32:  # too coarse to add up a whole vocabulary, so ids race by exponential times instead
            return (weights / torch.empty_like(weights).exponential_(generator=self.generator)).argmax(-1)
        cdf = weights.cumsum(-1, dtype=self.dtype)
        threshold = self.uniform(*weights.shape[:-1], 1) * cdf[..., -1:]  # below the total: u is at most 1 - 2^-53
        return torch.searchsorted(cdf, threshold, right=True)[..., 0].clamp_(max=cdf.shape[-1] - 1)


def best(logits: Tensor) -> Tensor:
    """Return the most likely ids, [..., V] -> [...]; of equally likely ones the first. On the CPU, NumPy's search is three times as fast as
    torch's for a few rows."""
    return torch.from_numpy(np.asarray(logits.numpy().argmax(-1))) if is_numpys(logits) else logits.argmax(-1)


def is_numpys(logits: Tensor) -> bool:
    """Whether NumPy can read these logits without a copy."""
    return logits.is_cpu and logits.dtype in NUMPYS
