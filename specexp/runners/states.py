"""What a model's output projection reads, row for row with its logits. Caught on the way during passes that are watched; between them
nothing is left on the model, whose weights other runners share.

Knows nothing of what the states are good for. Right for every model that calls its output projection as a module (what scales or
projects the states before it has been done by then, what scales or caps the logits comes after).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class OutputStates:
    """`with states: model(...)` catches one [B, n, D] per pass (B is 1 in decoding).

    Raises ValueError for a model without an output projection.
    """

    def __init__(self, model: torch.nn.Module):
        self._projection = model.get_output_embeddings()
        if self._projection is None:
            kind = model.config.model_type
            raise ValueError(f"a {kind} model has no output projection to read the input of; choose another method.")
        self._caught: list[Tensor] = []
        self._hook = None

    def __enter__(self) -> Self:
        self._caught = []
        self._hook = self._projection.register_forward_pre_hook(self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self._hook = None

    def take(self, rows: int) -> Tensor:
        """[rows, D]: the last rows of all passes, which are then forgotten here."""
        caught, self._caught = self._caught, []
        return caught[-1][0, -rows:] if caught[-1].shape[1] >= rows else torch.cat(caught, 1)[0, -rows:]

    def batch(self) -> Tensor:
        """[B, n, D] of the one pass there was, over B texts."""
        [states], self._caught = self._caught, []
        return states

    def ends(self) -> Tensor:
        """[passes, D]: the last row of each pass, likewise."""
        caught, self._caught = self._caught, []
        return torch.cat([states[0, -1:] for states in caught])

    def _catch(self, projection: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._caught.append(inputs[0])
