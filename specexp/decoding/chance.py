"""All randomness of one generation: uniforms to accept with, draws from a distribution.

Seeded once from (seed, example, sample) and never again, so a generation can be repeated alone and no two share numbers.
Tests replace it to enumerate every outcome with its probability.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Chance:
    """Uniforms and inverse-CDF draws on one device. float64 where the device has it (MPS has not)."""

    def __init__(self, *seed: object, device: torch.device | str = "cpu"):
        digest = hashlib.sha256(repr(seed).encode()).digest()
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        self.dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64

    def uniform(self, *shape: int) -> Tensor:
        """r ~ U[0, 1), of the given shape."""
        return torch.rand(shape, generator=self.generator, dtype=self.dtype, device=self.generator.device)

    def accept(self, p: Tensor, q: Tensor) -> Tensor:
        """[n] bool, each true with probability min(1, p/q) for p, q [n] (p/0 counts as certain unless p is 0). No sync."""
        return self.uniform(*p.shape) * q < p

    def draw(self, weights: Tensor) -> Tensor:
        """One id per row of [..., V] non-negative weights (they need not sum to 1); ids of weight 0 are never drawn. No sync."""
        cdf = weights.cumsum(-1, dtype=self.dtype)
        total = cdf[..., -1:]
        threshold = torch.minimum(self.uniform(*weights.shape[:-1], 1) * total, total.nextafter(torch.zeros_like(total)))
        return torch.searchsorted(cdf, threshold, right=True)[..., 0]
