"""Other makers' decoding loops over the same weights, and served endpoints, as sides of an experiment.

This file says what the experiment asks of every loop that is not ours, and imports none of these loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError


class PeerLoop:
    """What the experiment asks of every decoder, answered for a loop that is not ours: it is lossless, as its makers claim, decodes under
    any sampling rule, and has nothing to prepare.
    """

    lossless: ClassVar[bool] = True
    follows_sampling: ClassVar[bool] = True

    @classmethod
    def check(cls, sampling: Sampling) -> None:
        """Raises UserError for a sampling rule that the peer does not have. The class is asked, since a peer cannot be built without
        weights.
        """

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Prepares what is not to be timed; there is nothing to prepare here."""

    def close(self) -> None:
        """Gives up what the loop holds beside the shared weights; most hold nothing."""


class GreedyLoop(PeerLoop):
    """A loop that is compared under greedy decoding only: onnxruntime-genai's."""

    @classmethod
    def check(cls, sampling: Sampling) -> None:
        if not sampling.is_greedy:
            asked = f"temperature={sampling.temperature}"
            raise UserError(f"onnxruntime-genai is compared greedily only, and {asked} samples; choose sampling=greedy.")
