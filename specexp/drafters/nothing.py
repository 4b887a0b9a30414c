"""The drafter that proposes nothing: with it the loop is autoregressive decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Runner, Scores, Verdict


class NoDraft:
    needs_trees = needs_hidden = False
    models: ClassVar[Mapping[str, Runner]] = {}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        pass

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        return empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        pass
