"""The states of a model: what its output projection reads, one row for each row of logits. Medusa's heads read them.

They are caught by a hook during the passes that need them. The hook is removed after each pass, because other runners share the model. This
works for every model that calls its output projection as a module: whatever scales or projects the states before it has been done by then,
and whatever scales or caps the logits comes later. What the states are used for is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor


class OutputStates:
    """Catches the states of a pass: after `with states: model(...)`, `batch()` returns [B, n, D] (B is 1 in decoding).

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
        """Return the states of the pass over B texts, [B, n, D]. There has to have been exactly one pass."""
        [states], self._caught = self._caught, []
        return states

    def of_no_token(self) -> Tensor:
        """Return the states of a text without tokens, [0, D]."""
        weight = self._projection.weight
        return weight.new_empty(0, weight.shape[1])

    def _catch(self, projection: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._caught.append(inputs[0])


class StateMemo:
    """The states of a runner's text, by position. They are written as they are computed, and moved when an accepted path of a tree becomes
    part of the text."""

    def __init__(self, model: torch.nn.Module):
        self._caught = OutputStates(model)
        self._rows: Tensor | None = None  # [capacity, D]

    @contextmanager
    def writing(self, start: int) -> Iterator[None]:
        """Store the states of the one pass that is made inside the `with`, at the places from `start` on."""
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
        """Move what is at `places` (ascending, all >= start) to start, start + 1, and so on."""
        self._rows[start : start + len(places)] = self._rows[torch.tensor(places, device=self._rows.device)]

    def first(self, count: int) -> Tensor:
        """Return the states of the first `count` tokens, [count, D], as a view. Copy it if it is needed beyond the next pass."""
        return self._rows[:count] if count else self._caught.of_no_token()
