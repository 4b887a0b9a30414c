"""The same draft length every round. Looks at nothing, learns nothing."""

from __future__ import annotations

from dataclasses import dataclass

from specexp.decoding.protocols import Policy


@dataclass(frozen=True)
class FixedLength(Policy):
    """gamma tokens every round (Leviathan et al. 2023, Algorithm 1). gamma 0 is autoregressive decoding."""

    gamma: int

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma={self.gamma} is negative; give the number of tokens to draft per round, 0 for none.")

    def length(self) -> int:
        return self.gamma
