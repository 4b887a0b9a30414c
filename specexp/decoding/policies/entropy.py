"""H of a drafter's law, in nats: what entropy-guided policies read. Pure functions of [..., V] logits, on their device, without a sync."""

from __future__ import annotations

from torch import Tensor


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) in float32 or better, before any top-k or nucleus; temperature 0 reads the raw law (T = 1)."""
    logits = logits if logits.is_floating_point() and logits.itemsize > 4 else logits.float()
    return (logits / temperature if temperature > 0 else logits).softmax(-1)


def entropy(probability: Tensor) -> Tensor:
    """[..., V] -> [...]: -sum p log(p + 1e-8), the form of S3 and AdaEDL's implementations (exact to 1e-8 V, ids of p = 0 count 0)."""
    return -(probability * (probability + 1e-8).log()).sum(-1)
