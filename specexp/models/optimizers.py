"""The optimizers of the shipped tiny models, and how their rates go over a training run. Knows nothing of data or of a model's kind."""

import torch

from specexp.models.muon import Muon


def optimizers(model: torch.nn.Module, rate: float, shares: dict[str, float]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the embeddings, AdamW for embeddings and norms (as Muon's author proposes), the latter at a fifth of
    the rate. `shares`: end of a parameter's name -> its own part of the rate."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and id(parameter) not in tables
        share = next((share for end, share in shares.items() if name.endswith(end)), 1.0 if matrix else 0.2)
        groups.setdefault((matrix, rate * share), []).append(parameter)
    matrices, others = ([{"params": g, "lr": lr} for (matrix, lr), g in groups.items() if matrix == kind] for kind in (True, False))
    return [Muon(matrices, lr=rate), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


def schedule(share: float, end: float) -> float:
    """Factor on the learning rate: 2 % warm-up, a plateau to 60 % of `end`, then linearly to 0 at `end`."""
    part = min(share / end, 1.0)
    return min(part / 0.02 + 0.01, 1.0, (1.0 - part) / 0.4)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale each group's first learning rate by `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
