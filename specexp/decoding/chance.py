"""All randomness of one generation: uniforms to accept with, draws from a distribution.

Seeded once from (seed, example, sample) and never again, so a generation can be repeated alone.
Tests replace it to enumerate every outcome with its probability.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Chance:
    """Uniforms and draws on one device, in float64 where the device has it (CPU, CUDA)."""

    def __init__(self, *seed: object, device: torch.device | str = "cpu"):
        digest = hashlib.sha256(repr(seed).encode()).digest()
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        self.dtype = torch.float64 if torch.device(device).type in ("cpu", "cuda") else torch.float32

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
