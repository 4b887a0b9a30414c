"""How the tokens of a draft are collected while its model drafts them one after another, each drawn from the logits of the last.

On the CPU a greedy draft is made with NumPy and plain integers (`HostRollout`). The reason is that a forward pass replaces the contents of
the processor's caches, so every small torch operation between two passes is slow. This module knows nothing of runners or their caches.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.sampling import Draws


class DeviceRollout:
    """Draws tokens by any sampling rule, on the device. context: the text that the draft follows."""

    def __init__(self, context: Context, draws: Draws):
        self._last, self._tokens, self._laws = context.ids[-1], [context.tail(len(context) - 1)], []
        self._draws = draws

    def draw(self, logits: Tensor) -> Tensor:
        """Draw the next token: [1, V] logits -> [1]."""
        token, law = self._draws.token(logits)
        self._tokens.append(token)
        self._laws.append(law)
        return token

    def draft(self) -> Draft:
        """Return the chain of all tokens that were drawn."""
        return Draft.behind(self._last, torch.cat(self._tokens), None if self._laws[0] is None else torch.cat(self._laws))


class HostRollout:
    """Draws greedy tokens from float32 or float64 logits on the CPU."""

    def __init__(self) -> None:
        self._ids: list[int] = []

    def draw(self, logits: Tensor) -> Tensor:
        self._ids.append(token := int(logits.numpy().argmax()))
        return single_token(token)

    def draft(self) -> Draft:
        return Draft.of_ids(self._ids)


@lru_cache(maxsize=2**16)
def single_token(token: int) -> Tensor:
    """Return the token as a tensor, [1] on the CPU. It is made once and never written to. It is not made in inference mode, so that code
    which trains may read it too."""
    with torch.inference_mode(False):
        return torch.tensor([token])
