"""What the experiment asks of every loop that is not ours. Imports none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specexp.decoding.sampling import Sampling


class PeerLoop:
    """What the experiment asks of every decoder, answered for a loop that is not ours: lossless as its makers claim it, under any sampling
    rule, and with nothing to prepare."""

    lossless: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def check(self, sampling: Sampling) -> None:
        """UserError for a sampling rule that the peer does not have."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """What is not to be timed."""
