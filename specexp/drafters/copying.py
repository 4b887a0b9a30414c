"""Drafters that copy from the prompt and the text so far: what followed the last few ids earlier may follow them again. For example, if the
text is "A B C D ... A B", the last two ids also stood at its beginning, and the draft is "C D ...".

`PromptLookupDrafter` looks for the last few ids (Saxena 2023; LLMA, Yang et al. 2023, arXiv:2304.04487). `MaxGramDrafter` looks for the
longest end of the text that also stands earlier (max-gram of Cascade Speculative Drafting, arXiv:2312.11462). The original of max-gram
takes the earliest occurrence and, where there is none, a chain of bigrams; here both are a choice: `EarliestMatch` or `LatestMatch`, and as
the fallback `BigramDrafter` as in the original, `KatzDrafter` or `NoDraft`.

No model is asked, and the proposals are point masses. Under sampling they are accepted with probability p(x), so the text keeps its exact
distribution. A round takes the same time however long the text is.

`Material` splits the prompt and the text into two parts. Settled ids never change, so an index may store them. The loose end is what a fork
of the text holds beyond the place where it was forked off; it may be different next time, so it is searched and never stored. How matches
are found is not known here (see suffixes.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Drafter, LengthRule, Runner, Verdict
from specexp.decoding.sampling import Draws, Sampling
from specexp.drafters.suffixes import HashedMatch, Match
from specexp.errors import UserError


class CopyDrafter(Drafter):
    """Copies at most as many ids as `policy` says from the place where `match` finds the end of the text earlier in prompt and text."""

    def __init__(self, policy: LengthRule, match: Match):
        self.policy, self.match, self._material = without_logits(policy), match, Material()

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()
        self._material.start(prompt)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        self._take_in(context)
        length = min(self.policy.length(), limit) if limit else 0
        loose = self._material.loose(context)
        start = self.match.find(loose) if length else None
        if start is None:
            return empty_draft(context.device)
        return Draft.of_ids(copied(self.match.ids, loose, start, length), context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.policy.observe(len(draft), len(verdict.path))

    def _take_in(self, context: Context) -> None:
        if self._material.restarts(context):
            self.match.clear()
        self.match.extend(self._material.settled(context))


def copied(ids: list[int], loose: list[int], start: int, length: int) -> list[int]:
    """Return `length` ids from index `start` on, counted over `ids` and then `loose`. If that reaches the end of the text, the copy goes
    on with its own beginning: from "A B" it becomes "A B A B ..."."""
    text = ids[start : start + length]
    text += loose[max(0, start - len(ids)) : length - len(text) + max(0, start - len(ids))]
    while len(text) < length:
        text += text[: length - len(text)]
    return text


def without_logits(policy: LengthRule) -> LengthRule:
    """Return the policy, for a drafter that is not a model. Raises UserError if the policy has to look at a drafter's logits."""
    if policy.proceeds is not None:
        raise UserError(
            "this policy looks at a draft model's logits, and the drafter is no model; choose one that looks at none, such as fixed, "
            "heuristic or cost_model."
        )
    return policy


class Material:
    """What may be copied from: the context, and before it the prompt if the context does not contain it (encoder-decoder models)."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.apart = False  # whether the prompt is not part of the context
        self._taken = 0  # the number of settled ids handed out, those of the prompt included
        self._lineage: object = None

    def start(self, prompt: Sequence[int]) -> None:
        self.prompt, self.apart, self._taken, self._lineage = list(prompt), False, 0, None

    def restarts(self, context: Context) -> bool:
        """Whether this is another text than the one read so far, so that an index of that one has to be emptied. Call it before
        `settled`."""
        if context.lineage is self._lineage:
            return False
        self.apart = context.ids[: min(len(self.prompt), context.permanent)] != self.prompt
        self._lineage, self._taken = context.lineage, 0
        return True

    def settled(self, context: Context) -> list[int]:
        """Return the settled ids that were not returned before."""
        lead = self._lead
        fresh = self.prompt[self._taken :] if self._taken < lead else []
        fresh = fresh + context.ids[max(0, self._taken - lead) : context.permanent]
        self._taken += len(fresh)
        return fresh

    def skip_prompt(self) -> None:
        """Note that the prompt, which is not part of the context, has been read already."""
        self._taken = max(self._taken, self._lead)

    def loose(self, context: Context) -> list[int]:
        """Return the ids that come after everything settled."""
        return context.ids[context.permanent :]

    @property
    def _lead(self) -> int:
        return len(self.prompt) if self.apart else 0


class PromptLookupDrafter(CopyDrafter):
    """Copies what followed the latest earlier occurrence of the last `max_ngram` ids. If they have none it tries one id fewer, down to the
    last `min_ngram`."""

    def __init__(self, policy: LengthRule, max_ngram: int = 3, min_ngram: int = 1):
        if not 1 <= min_ngram <= max_ngram:
            raise UserError(f"prompt lookup needs 1 <= min_ngram <= max_ngram, not min_ngram={min_ngram} and max_ngram={max_ngram}.")
        super().__init__(policy, HashedMatch(min_ngram, max_ngram))


class MaxGramDrafter(CopyDrafter):
    """Copies what followed the longest match. match: which earlier occurrence counts, and how long it has to be. fallback: the drafter that
    is asked if there is none."""

    def __init__(self, policy: LengthRule, match: Match, fallback: Drafter):
        super().__init__(policy, match)
        self.fallback, self._asked = fallback, False
        self.needs_trees = fallback.needs_trees

    @property
    def models(self) -> Mapping[str, Runner]:
        return self.fallback.models

    def check(self, sampling: Sampling) -> None:
        self.fallback.check(sampling)

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.fallback.prepare(prompt, max_new_tokens)

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        super().start(prompt, max_new_tokens)
        self.fallback.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        draft = super().propose(context, limit, draws)
        self._asked = len(draft) == 0
        return self.fallback.propose(context, limit, draws) if self._asked else draft

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """Tell the policy of copying about every round, as one without a draft if the fallback drafted. The fallback is told about its own
        drafts only."""
        if self._asked:
            self.policy.observe(0, 0)
            self.fallback.observe(draft, verdict, logits)
        else:
            super().observe(draft, verdict, logits)
