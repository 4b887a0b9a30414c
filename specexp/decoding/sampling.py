"""How a token is drawn: from logits to the law that is really sampled from, and all randomness of one generation.

One rule for target and draft alike. Temperature 0 is argmax: p becomes one-hot, so the rejection rule needs no second algorithm. The order
is transformers': temperature, then top-k, then nucleus. Exactly k ids survive top-k, ties included, so no tie makes "greedy" random.
A generation is seeded once from (seed, example, sample) and never again, so that it can be repeated alone. Tests replace `Draws` to
enumerate every outcome with its probability.
"""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

NUMPYS = (torch.float32, torch.float64)
TINY = torch.finfo(torch.float32).tiny  # a float32 that is not 0


@dataclass(frozen=True)
class Sampling:
    """greedy: temperature 0. multinomial: temperature alone. topk, nucleus, topknucleus: with top_k and/or top_p."""

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
        """[..., V] logits -> [..., V] probabilities, float32 or better."""
        if self.is_greedy:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = (logits - logits.amax(-1, keepdim=True)) / max(self.temperature, TINY)  # overflows to -inf alone
        return self._nucleus(self._top_k(logits).softmax(-1))

    def _top_k(self, logits: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= logits.shape[-1]:
            return logits
        values, ids = logits.topk(self.top_k, dim=-1)
        return torch.full_like(logits, float("-inf")).scatter_(-1, ids, values)

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """The smallest set of most likely ids whose mass reaches top_p, renormalised (Holtzman et al. 2020)."""
        if self.top_p is None or self.top_p == 1:
            return probabilities
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= self.top_p, 0.0)
        kept = torch.zeros_like(probabilities).scatter_(-1, ids, ordered)
        return kept / kept.sum(-1, keepdim=True)


GREEDY = Sampling()


class Draws:
    """One generation's sampling rule and its randomness, on one device; uniforms in float64 where the device has it (CPU, CUDA).

    seed: any values, such as (seed, example, sample).
    """

    def __init__(self, sampling: Sampling = GREEDY, seed: tuple = (), device: torch.device | str = "cpu"):
        digest = hashlib.sha256(repr(tuple(seed)).encode()).digest()
        self.sampling, self.is_greedy = sampling, sampling.is_greedy
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        self.dtype = torch.float64 if torch.device(device).type in ("cpu", "cuda") else torch.float32

    def greedily(self) -> Draws:
        """The same randomness under the greedy rule (between the models of a cascade)."""
        if self.is_greedy:
            return self
        other = copy(self)
        other.sampling, other.is_greedy = GREEDY, True
        return other

    def law(self, logits: Tensor) -> Tensor:
        """[..., V] logits -> [..., V] the probabilities that tokens are drawn with."""
        return self.sampling(logits)

    def token(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """One token per row of [..., V] logits, and the law it was drawn from (None: a point mass)."""
        if self.is_greedy:
            return best(logits), None
        q = self.sampling(logits)
        return self.draw(q), q

    def uniform(self, *shape: int) -> Tensor:
        """r ~ U[0, 1), of the given shape."""
        return torch.rand(shape, generator=self.generator, dtype=self.dtype, device=self.generator.device)

    def accept(self, p: Tensor, q: Tensor) -> Tensor:
        """[n] bool, each true with probability min(1, p/q) for p, q [n] (p/0 counts as certain unless p is 0). No sync."""
        return self.uniform(*p.shape) * q < p

    def draw(self, weights: Tensor) -> Tensor:
        """One id per row of [..., V] non-negative weights (they need not sum to 1); ids of weight 0 are never drawn. No sync.

        NaN weights give some id: a broken model is found by who looks at its likelihoods, not by a crash of the device.
        """
        if self.dtype == torch.float32:  # too coarse to add up a vocabulary: an exponential race instead of the inverse CDF
            return (weights / torch.empty_like(weights).exponential_(generator=self.generator)).argmax(-1)
        cdf = weights.cumsum(-1, dtype=self.dtype)
        threshold = self.uniform(*weights.shape[:-1], 1) * cdf[..., -1:]  # below the total: u is at most 1 - 2^-53
        return torch.searchsorted(cdf, threshold, right=True)[..., 0].clamp_(max=cdf.shape[-1] - 1)


def best(logits: Tensor) -> Tensor:
    """[..., V] -> [...] the most likely ids, the first of equals. NumPy's search is three times torch's on the CPU for a few rows."""
    return torch.from_numpy(np.asarray(logits.numpy().argmax(-1))) if is_numpys(logits) else logits.argmax(-1)


def is_numpys(logits: Tensor) -> bool:
    """Whether NumPy can read them where they lie."""
    return logits.is_cpu and logits.dtype in NUMPYS
