"""How long a draft should be. A policy decides before the token is drawn: dropping one after the draw would bias the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FixedLength:
    """gamma tokens every round (Leviathan et al. 2023, Algorithm 1). gamma 0 is autoregressive decoding."""

    gamma: int

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma={self.gamma} is negative; give the number of tokens to draft per round, 0 for none.")

    def length(self, look: Callable[[], Tensor]) -> int:
        return self.gamma

    def observe(self, drafted: int, accepted: int) -> None:
        pass
