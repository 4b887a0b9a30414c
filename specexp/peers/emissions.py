"""What comes out of one request to transformers' `generate`, token by token or block by block, and when.

The request runs where it is called, not in a thread: a thread would take turns with the peer for the interpreter, and compiled graphs do
not cross threads. So times are noted here as tokens come, and told afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from specexp.decoding.protocols import Cut, Stop


class Emissions:
    """opening: tokens that the text begins with and that are no emission. times: `perf_counter` seconds of each emission."""

    def __init__(self, opening: int, stop: Stop):
        self.opening, self.stop = opening, stop
        self.ids: list[int] = []
        self.ends: list[int] = []  # len(ids) after each emission
        self.times: list[float] = []
        self.passes = 0  # of the target: one for each time that tokens came, wanted or not
        self.cut: Cut | None = None

    def hear(self, tokens: Sequence[int]) -> None:
        """The tokens of one pass, just now."""
        self.passes += 1
        if self.cut is not None:  # a loop that asks late whether to end (transformers' deferred check)
            return
        self.times.append(perf_counter())
        since = len(self.ids)
        self.ids.extend(tokens)
        self.ends.append(len(self.ids))
        self.cut = self.stop(self.ids, since)


class Heard(StoppingCriteria):
    """Hears the plain loop, which asks its stopping criteria once behind every token."""

    def __init__(self, emissions: Emissions):
        self.emissions = emissions

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> bool:
        """[1, n] the text so far -> whether it ends here. (Signature: transformers' interface.)"""
        self.emissions.hear(input_ids[0, self.emissions.opening + len(self.emissions.ids) :].tolist())
        return self.emissions.cut is not None


class Streamed(BaseStreamer):
    """Hears the assisted loop, which may ask its criteria about candidates too, but streams what was accepted and nothing else."""

    def __init__(self, emissions: Emissions):
        self.emissions = emissions
        self._begun = False

    def put(self, value: Tensor) -> None:
        """[1, n], the opening first."""
        if self._begun:
            self.emissions.hear(value.view(-1).tolist())
        self._begun = True

    def end(self) -> None:
        """Nothing is held back."""


class Ended(StoppingCriteria):
    """Tells the assisted loop that what was streamed has come to its end."""

    def __init__(self, emissions: Emissions):
        self.emissions = emissions

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> bool:
        return self.emissions.cut is not None
