"""What followed the last few ids before, may follow them again: drafts copied from the prompt and from the text itself.

No model and no law: proposals are point masses, which under sampling are accepted with probability p(x), so the text's law stays
exact. A round costs the same however long the text is. What a fork holds beyond its trunk is matched too, and never indexed.

What a drafter may copy from: the prompt and the text so far, split into what is settled and a loose end.

Settled ids never change, so an index may take them in for good; the loose end (what a fork holds beyond its trunk) may read
differently next time and is only ever read. Knows nothing of how matches are found.

Prompt lookup: a few ids are enough to find a place to copy from (Saxena 2023; LLMA, Yang et al. 2023, arXiv:2304.04487).

Max-gram: the longest suffix of the text that stood there before says what comes next (Cascade Speculative Drafting, arXiv:2312.11462).

The original takes the earliest occurrence and ends in a chain of bigrams; here the occurrence is a choice (`EarliestMatch`,
`LatestMatch`), and any drafter may stand in where nothing matches (`BigramDrafter` as in the original, `NoDraft`, `KatzDrafter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Runner, Verdict
from specexp.decoding.sampling import Draws
from specexp.drafters.suffixes import HashedMatch, Match
from specexp.errors import UserError


class CopyDrafter(Drafter):
    """At most as many ids as `policy` says, from where `match` finds the text's end earlier in prompt and text."""

    def __init__(self, policy: LengthRule, match: Match):
        self.policy, self.match, self._material = without_logits(policy), match, Material()

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()
        self._material.start(prompt)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        self._take_in(context)
        length = min(self.policy.length(), limit) if limit else 0
        loose = self._material.loose(context)
        behind = self.match.find(loose) if length else None
        if behind is None:
            return empty_draft(context.device)
        return Draft.of_ids(copied(self.match.ids, loose, behind, length), context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))

    def _take_in(self, context: Context) -> None:
        if self._material.restarts(context):
            self.match.clear()
        self.match.extend(self._material.settled(context))


def copied(ids: list[int], loose: list[int], behind: int, length: int) -> list[int]:
    """`length` ids from index `behind` of `ids` and `loose` on; past the text's end the copy goes on out of itself."""
    text = ids[behind : behind + length]
    text += loose[max(0, behind - len(ids)) : length - len(text) + max(0, behind - len(ids))]
    while len(text) < length:
        text += text[: length - len(text)]
    return text


def without_logits(policy: LengthRule) -> LengthRule:
    """That very policy, for a drafter that is no model. Raises UserError where it wants to look at a drafter's logits."""
    if policy.proceeds is not None:
        looks = type(policy).__name__
        raise UserError(f"{looks} looks at a draft model's logits, and this drafter is no model; choose the policy fixed or cost_model.")
    return policy


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


class PromptLookupDrafter(CopyDrafter):
    """Copies what followed the latest earlier occurrence of the last `max_ngram` ids, else of a shorter suffix down to `min_ngram`."""

    def __init__(self, policy: LengthRule, max_ngram: int = 3, min_ngram: int = 1):
        if not 1 <= min_ngram <= max_ngram:
            raise UserError(f"prompt lookup needs 1 <= min_ngram <= max_ngram, not min_ngram={min_ngram} and max_ngram={max_ngram}.")
        super().__init__(policy, HashedMatch(min_ngram, max_ngram))


class MaxGramDrafter(CopyDrafter):
    """match: which earlier occurrence counts, and from which length on. fallback: drafts where there is none."""

    def __init__(self, policy: LengthRule, match: Match, fallback: Drafter):
        super().__init__(policy, match)
        self.fallback, self._asked = fallback, False
        self.needs_trees = fallback.needs_trees

    @property
    def models(self) -> Mapping[str, Runner]:
        return self.fallback.models

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        super().start(prompt, capacity)
        self.fallback.start(prompt, capacity)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        draft = super().propose(context, limit, draws)
        self._asked = len(draft) == 0
        return self.fallback.propose(context, limit, draws) if self._asked else draft

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """The copying policy is told of every round, with nothing drafted where the fallback did; the fallback of its own drafts."""
        if self._asked:
            self.policy.observe(0, 0)
            self.fallback.observe(draft, verdict, logits)
        else:
            super().observe(draft, verdict, logits)
