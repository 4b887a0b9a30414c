"""Medusa heads (Cai et al. 2024, arXiv:2401.10774, section 2.1): one hidden state, and a guess at each of K tokens behind the next.

Head i: logits_i = W_i x, x = h + SiLU(U_i h + b_i), once for each residual block. From the state at position t, the one that the output
projection reads for token t + 1, head i predicts token t + 2 + i. Heads do not see each other's guesses.
Knows nothing of files, text or trees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu


class MedusaHeads(nn.Module):
    """K heads of `layers` residual blocks each, kept as stacked tensors so that one batched product serves all of them.

    inner: [layers, K, D, D] and bias: [layers, K, D], 0 at first, so that x = h; every block has its own.
    output: [K, V, D], to be set: training begins with the target's own projection in each.
    """

    def __init__(self, heads: int, layers: int, hidden: int, vocabulary: int):
        super().__init__()
        self.inner = nn.Parameter(torch.zeros(layers, heads, hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(layers, heads, hidden))
        self.output = nn.Parameter(torch.zeros(heads, vocabulary, hidden))

    @classmethod
    def beginning(cls, projection: Tensor, heads: int, layers: int) -> MedusaHeads:
        """projection: [V, D], the target's. Every head says at first what the target itself says of token t + 1."""
        made = cls(heads, layers, projection.shape[1], projection.shape[0])
        with torch.no_grad():
            made.output.copy_(projection.to(made.output.dtype).expand_as(made.output))
        return made.to(projection.device)

    def __len__(self) -> int:
        return self.output.shape[0]

    @property
    def layers(self) -> int:
        return self.inner.shape[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, D] -> [K, n, V] logits."""
        x = hidden.expand(len(self), *hidden.shape)
        for inner, bias in zip(self.inner, self.bias, strict=True):
            x = x + silu(torch.baddbmm(bias[:, None], x, inner.mT))
        return torch.bmm(x, self.output.mT)

    def one(self, head: int, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V] logits of one head: training needs no more at a time."""
        x = hidden
        for inner, bias in zip(self.inner[:, head], self.bias[:, head], strict=True):
            x = x + silu(linear(x, inner, bias))
        return linear(x, self.output[head])
