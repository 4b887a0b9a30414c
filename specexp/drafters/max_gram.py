"""Max-gram: the longest suffix of the text that stood there before says what comes next (Cascade Speculative Drafting, arXiv:2312.11462).

The original takes the earliest occurrence and ends in a chain of bigrams; here the occurrence is a choice (`EarliestMatch`,
`LatestMatch`), and any drafter may stand in where nothing matches (`BigramDrafter` as in the original, `NoDraft`, `KatzDrafter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Drafter, Policy, Runner, Scores, Verdict
from specexp.drafters.copying import CopyDrafter
from specexp.drafters.matching import Match


class MaxGramDrafter(CopyDrafter):
    """match: which earlier occurrence counts, and from which length on. fallback: drafts where there is none."""

    def __init__(self, policy: Policy, match: Match, fallback: Drafter):
        super().__init__(policy, match)
        self.fallback, self._asked = fallback, False
        self.needs_trees, self.needs_hidden = fallback.needs_trees, fallback.needs_hidden

    @property
    def models(self) -> Mapping[str, Runner]:
        return self.fallback.models

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        super().start(prompt, capacity)
        self.fallback.start(prompt, capacity)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        draft = super().propose(context, limit, chance)
        self._asked = len(draft) == 0
        return self.fallback.propose(context, limit, chance) if self._asked else draft

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        """The copying policy is told of every round, with nothing drafted where the fallback did; the fallback of its own drafts."""
        if self._asked:
            self.policy.observe(0, 0)
            self.fallback.observe(draft, verdict, scores)
        else:
            super().observe(draft, verdict, scores)
