"""The tokens of a draft while its model rolls it out, each drawn from the logits behind the one before.

On the CPU a greedy draft is made with NumPy and plain integers: a forward leaves the processor's caches cold, so a round pays for every
small operation between two of them. Knows nothing of runners and what they remember.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.sampling import Draws


class DeviceRollout:
    """By any sampling rule, on the device. context: what the draft follows."""

    def __init__(self, context: Context, draws: Draws):
        self._last, self._tokens, self._laws = context.ids[-1], [context.tail(len(context) - 1)], []
        self._draws = draws

    def draw(self, logits: Tensor) -> Tensor:
        """[1, V] -> [1] the next token."""
        token, law = self._draws.token(logits)
        self._tokens.append(token)
        self._laws.append(law)
        return token

    def draft(self) -> Draft:
        """The chain of all that were drawn."""
        return Draft.behind(self._last, torch.cat(self._tokens), None if self._laws[0] is None else torch.cat(self._laws))


class HostRollout:
    """The same of greedy tokens from float32 or float64 logits on the CPU."""

    def __init__(self) -> None:
        self._ids: list[int] = []

    def draw(self, logits: Tensor) -> Tensor:
        self._ids.append(token := int(logits.numpy().argmax()))
        return single_token(token)

    def draft(self) -> Draft:
        return Draft.of_ids(self._ids)


@lru_cache(maxsize=2**16)
def single_token(token: int) -> Tensor:
    """[1] on the CPU, made once and never written to; no inference tensor, so that whoever trains may read it too."""
    with torch.inference_mode(False):
        return torch.tensor([token])
