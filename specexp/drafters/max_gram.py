"""Max-gram: the longest suffix of the text that stood there before says what comes next (Cascade Speculative Drafting, arXiv:2312.11462).

The original takes the earliest occurrence and ends in a chain of bigrams; here the occurrence is a choice (`EarliestMatch`,
`LatestMatch`), and any drafter may stand in where nothing matches (`BigramDrafter` as in the original, `NoDraft`, `KatzDrafter`).
"""

from __future__ import annotations

from collections.abc import Sequence

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Drafter, Policy, Scores, Verdict
from specexp.drafters.copying import CopyDrafter
from specexp.drafters.matching import Match


class MaxGramDrafter(CopyDrafter):
    """match: which earlier occurrence counts, and from which length on. fallback: drafts where there is none."""

    def __init__(self, policy: Policy, match: Match, fallback: Drafter):
        super().__init__(policy, match)
        self.fallback, self._asked = fallback, False
        self.needs_trees = fallback.needs_trees

    @property
    def forwards(self) -> int:
        return self.fallback.forwards

    @property
    def kv_bytes(self) -> int:
        return self.fallback.kv_bytes

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        super().start(prompt, capacity)
        self.fallback.start(prompt, capacity)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        draft = super().propose(context, limit, chance)
        self._asked = len(draft) == 0
        return self.fallback.propose(context, limit, chance) if self._asked else draft

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        """Each learns from its own drafts only."""
        (self.fallback if self._asked else super()).observe(draft, verdict, scores)
