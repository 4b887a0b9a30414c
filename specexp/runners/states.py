"""What a model's output projection reads, row for row with its logits. Caught on the way during passes that are watched; between them
nothing is left on the model, whose weights other runners share.

Knows nothing of what the states are good for. Right for every model that calls its output projection as a module (what scales or
projects the states before it has been done by then, what scales or caps the logits comes after).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    def batch(self) -> Tensor:
        """[B, n, D] of the one pass there was, over B texts."""
        [states], self._caught = self._caught, []
        return states

    def of_no_token(self) -> Tensor:
        """[0, D]."""
        weight = self._projection.weight
        return weight.new_empty(0, weight.shape[1])

    def _catch(self, projection: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._caught.append(inputs[0])


class StateMemo:
    """The states of a runner's text, by position: written as they are computed, gathered where an accepted path moves."""

    def __init__(self, model: torch.nn.Module):
        self._caught = OutputStates(model)
        self._rows: Tensor | None = None  # [capacity, D]

    @contextmanager
    def writing(self, start: int) -> Iterator[None]:
        """The states of the one pass made meanwhile go to the places from `start` on."""
        with self._caught:
            yield
        [states] = self._caught.batch()  # [n, D]
        end = start + states.shape[0]
        if self._rows is None or end > self._rows.shape[0]:
            grown = states.new_empty(2 * end, states.shape[1])
            if self._rows is not None:
                grown[:start] = self._rows[:start]
            self._rows = grown
        self._rows[start:end] = states

    def gather(self, places: Sequence[int], start: int) -> None:
        """Move what is at `places` (ascending, all >= start) to start, start + 1, ..."""
        self._rows[start : start + len(places)] = self._rows[torch.tensor(places, device=self._rows.device)]

    def first(self, count: int) -> Tensor:
        """[count, D], a view: the next pass may write over what lies behind."""
        return self._rows[:count] if count else self._caught.of_no_token()
