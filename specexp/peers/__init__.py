"""Other makers' decoding loops over the same weights, and served endpoints, as sides of an experiment.

Here stands what the experiment asks of every loop that is not ours; nothing here imports one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError


class PeerLoop:
    """What the experiment asks of every decoder, answered for a loop that is not ours: lossless as its makers claim it, under any sampling
    rule, and with nothing to prepare."""

    lossless: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    @classmethod
    def check(cls, sampling: Sampling) -> None:
        """UserError for a sampling rule that the peer does not have. Asked of the class, since a peer cannot be built without weights."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """What is not to be timed."""


class GreedyLoop(PeerLoop):
    """onnxruntime-genai: its sampling is not compared."""

    @classmethod
    def check(cls, sampling: Sampling) -> None:
        if not sampling.is_greedy:
            asked = f"temperature={sampling.temperature}"
            raise UserError(f"onnxruntime-genai is compared greedily only, and {asked} samples; choose sampling=greedy.")
