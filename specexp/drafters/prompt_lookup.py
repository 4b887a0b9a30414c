"""Prompt lookup: what followed the last few tokens before, may follow them again (Saxena 2023, Yang et al. 2023 arXiv:2304.04487).

Every n-gram of the text is indexed once, when it appears, so a round costs the same however long the text is. Proposals are
point masses: under sampling they are accepted with probability p(x), which leaves the law exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Policy, Scores, Verdict
from specexp.errors import UserError


class PromptLookupDrafter:
    """Copies what followed the latest earlier occurrence of the last `max_ngram` ids, else of a shorter suffix down to `min_ngram`.

    Occurrences in the prompt count, whether the context contains it or an encoder reads it.
    """

    needs_trees = False
    forwards = 0
    kv_bytes = 0

    def __init__(self, policy: Policy, max_ngram: int = 3, min_ngram: int = 1):
        if not 1 <= min_ngram <= max_ngram:
            raise UserError(f"prompt lookup needs 1 <= min_ngram <= max_ngram, not min_ngram={min_ngram} and max_ngram={max_ngram}.")
        self.policy, self.max_ngram, self.min_ngram = policy, max_ngram, min_ngram
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> index right behind its latest indexed occurrence
        self._indexed = 0
        self._prompt: Sequence[int] = ()
        self._source: list[int] | None = None  # what stands before the context: nothing, or an encoder-decoder model's prompt

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self._ends.clear()
        self._indexed, self._prompt, self._source = 0, prompt, None

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        ids = self._text(context)
        self._index(ids)
        length = min(self.policy.length(_no_logits), limit)
        behind = self._match(ids) if length else None
        if behind is None:
            return empty_draft(context.device)
        copied = ids[behind : behind + length]
        while len(copied) < length:  # the match runs into the text's end: the copy goes on out of itself
            copied += copied[: length - len(copied)]
        return Draft.of_ids(copied, context.device)

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        self.policy.observe(len(draft), len(verdict.path))

    def _text(self, context: Context) -> list[int]:
        """The context, behind the prompt where it does not begin with it (encoder-decoder models)."""
        if self._source is None:
            contained = context.ids[: len(self._prompt)] == list(self._prompt)
            self._source = [] if contained else list(self._prompt)
        return [*self._source, *context.ids] if self._source else context.ids

    def _index(self, ids: list[int]) -> None:
        """All n-grams that end before the last id: the text's own suffix must not match itself."""
        for end in range(self._indexed + 1, len(ids)):
            for size in range(self.min_ngram, min(self.max_ngram, end) + 1):
                self._ends[tuple(ids[end - size : end])] = end
        self._indexed = max(self._indexed, len(ids) - 1)

    def _match(self, ids: list[int]) -> int | None:
        """Where the continuation of the longest known suffix begins."""
        for size in range(min(self.max_ngram, len(ids)), self.min_ngram - 1, -1):
            if (end := self._ends.get(tuple(ids[-size:]))) is not None:
                return end
        return None


def _no_logits():
    raise UserError("prompt lookup has no draft model, so a draft-length policy that reads its logits cannot steer it; use policy=fixed.")
