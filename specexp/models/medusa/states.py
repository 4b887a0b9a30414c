"""What the heads read and what they should say: a frozen target's hidden states over texts, each with the ids that follow.

Computed when first asked for and kept while there is room, so that later epochs cost no pass of the target. Decoder-only models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specexp.models.hidden import OutputStates
from specexp.models.medusa.texts import Text

NONE = -100  # label where the text has ended; cross_entropy passes over it
ROOM = 2 * 2**30  # bytes of states that are kept


class States:
    """Of `texts` under `model`, for `heads` heads."""

    def __init__(self, model: torch.nn.Module, texts: Sequence[Text], heads: int):
        self.model, self.texts, self.heads = model, texts, heads
        self._caught = OutputStates(model)
        self._kept: dict[int, Tensor] = {}
        self._room = ROOM

    def __call__(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """([n, D] states in the model's dtype, [n, K] labels): all places of the chosen texts that are learnt from, text by text."""
        missing = [number for number in chosen if number not in self._kept]
        fresh = dict(zip(missing, self._computed([self.texts[number] for number in missing]), strict=True)) if missing else {}
        states = torch.cat([fresh[n] if n in fresh else self._kept[n].to(self.model.device) for n in chosen])
        labels = torch.cat([labelled(self.texts[n], self.heads) for n in chosen]).to(states.device)
        self._keep(fresh)
        return states, labels

    def _keep(self, fresh: dict[int, Tensor]) -> None:
        for number, states in fresh.items():
            if states.nbytes <= self._room:
                self._kept[number] = states.to("cpu", copy=True)
                self._room -= states.nbytes

    @torch.no_grad()
    def _computed(self, texts: Sequence[Text]) -> list[Tensor]:
        """Shorter texts are padded behind, where causal attention lets nobody see it."""
        longest = max(len(text.ids) for text in texts)
        rows = [list(text.ids) + [0] * (longest - len(text.ids)) for text in texts]
        with self._caught:
            self.model(input_ids=torch.tensor(rows, device=self.model.device), use_cache=False)
        states = self._caught.batch()
        return [states[row, _first(text) : len(text.ids) - 2] for row, text in enumerate(texts)]


def labelled(text: Text, heads: int) -> Tensor:
    """[n, K]: behind the state at place t, head i should say id t + 2 + i."""
    ids = torch.tensor([*text.ids, *[NONE] * heads])
    return ids[_first(text) + 2 :].unfold(0, heads, 1)[: max(0, len(text.ids) - 2 - _first(text))]


def places(text: Text) -> int:
    """How many of its places are learnt from."""
    return max(0, len(text.ids) - 2 - _first(text))


def _first(text: Text) -> int:
    return max(0, text.start - 1)
