"""What a drafter may copy from: the prompt and the text so far, split into what is settled and a loose end.

Settled ids never change, so an index may take them in for good; the loose end (what a fork holds beyond its trunk) may read
differently next time and is only ever read. Knows nothing of how matches are found.
"""

from __future__ import annotations

from collections.abc import Sequence

from specexp.decoding.context import Context


class Material:
    """The context, behind the prompt where the context does not begin with it (encoder-decoder models)."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.apart = False  # the prompt is not part of the context
        self._taken = 0  # settled ids handed out, the prompt's included
        self._lineage: object = None

    def start(self, prompt: Sequence[int]) -> None:
        self.prompt, self.apart, self._taken, self._lineage = list(prompt), False, 0, None

    def restarts(self, context: Context) -> bool:
        """Whether this text is another than the one read so far: whoever has indexed that one must forget it. Call before `settled`."""
        if context.lineage is self._lineage:
            return False
        self.apart = context.ids[: min(len(self.prompt), context.permanent)] != self.prompt
        self._lineage, self._taken = context.lineage, 0
        return True

    def settled(self, context: Context) -> list[int]:
        """The settled ids that were not handed out before."""
        lead = self._lead
        fresh = self.prompt[self._taken :] if self._taken < lead else []
        fresh = fresh + context.ids[max(0, self._taken - lead) : context.permanent]
        self._taken += len(fresh)
        return fresh

    def skip_prompt(self) -> None:
        """The prompt, being apart, has been read by other means."""
        self._taken = max(self._taken, self._lead)

    def loose(self, context: Context) -> list[int]:
        """What comes behind everything settled."""
        return context.ids[context.permanent :]

    @property
    def _lead(self) -> int:
        return len(self.prompt) if self.apart else 0
