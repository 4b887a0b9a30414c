"""The optimizers of the shipped tiny models, and how their learning rates change over a training run.

Muon is momentum whose matrices are replaced by their nearest orthogonal ones (K. Jordan, 2024, "Muon: an optimizer for hidden layers").
Here it computes in float32 and in batches of matrices of one shape: torch.optim.Muon takes them one by one in bfloat16, which CPUs without
bfloat16 arithmetic do ten times slower. It takes 2-D parameters only. This module knows nothing of data and of kinds of models.
"""

from __future__ import annotations

import torch


def optimizers(model: torch.nn.Module, rate: float, shares: dict[str, float]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the embeddings, and AdamW, at a fifth of the rate, for embeddings and norms (as Muon's author
    proposes). `shares`: the end of a parameter's name -> its own factor on the rate.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and id(parameter) not in tables
        share = next((share for end, share in shares.items() if name.endswith(end)), 1.0 if matrix else 0.2)
        groups.setdefault((matrix, rate * share), []).append(parameter)
    matrices, others = ([{"params": g, "lr": lr} for (matrix, lr), g in groups.items() if matrix == kind] for kind in (True, False))
    return [Muon(matrices, lr=rate), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


def schedule(share: float, end: float) -> float:
    """The factor on the learning rate: a warm-up over 2 %, constant up to 60 % of `end`, then linearly to 0 at `end`."""
    part = min(share / end, 1.0)
    return min(part / 0.02 + 0.01, 1.0, (1.0 - part) / 0.4)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiplies each group's first learning rate by `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: steep at 0, singular values end within about 0.7 to 1.2


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz iteration towards U V^T of each matrix; `matrices` is (n, rows, columns)."""
    if matrices.size(1) > matrices.size(2):
        return orthogonalise(matrices.mT, steps).mT
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Steps of size `lr` (times sqrt(rows/columns) for tall matrices) along the orthogonalised Nesterov momentum."""

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                directions = torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices])
                size = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, orthogonalise(directions), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=size)

    def _momentum(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        buffer = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        buffer.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(buffer, momentum)
