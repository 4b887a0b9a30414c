"""What followed the last few ids before, may follow them again: drafts copied from the prompt and from the text itself.

No model and no law: proposals are point masses, which under sampling are accepted with probability p(x), so the text's law stays
exact. A round costs the same however long the text is. What a fork holds beyond its trunk is matched too, and never indexed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Policy, Runner, Scores, Verdict
from specexp.drafters.matching import Match
from specexp.drafters.material import Material
from specexp.errors import UserError


class CopyDrafter:
    """At most as many ids as `policy` says, from where `match` finds the text's end earlier in prompt and text."""

    needs_trees = needs_hidden = False
    models: ClassVar[Mapping[str, Runner]] = {}

    def __init__(self, policy: Policy, match: Match):
        self.policy, self.match, self._material = without_logits(policy), match, Material()

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.policy.start()
        self._material.start(prompt)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        self._take_in(context)
        length = min(self.policy.length(), limit) if limit else 0
        loose = self._material.loose(context)
        behind = self.match.find(loose) if length else None
        if behind is None:
            return empty_draft(context.device)
        return Draft.of_ids(copied(self.match.ids, loose, behind, length), context.device)

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
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


def without_logits(policy: Policy) -> Policy:
    """That very policy, for a drafter that is no model. Raises UserError where it wants to look at a drafter's logits."""
    if policy.proceeds is not None:
        looks = type(policy).__name__
        raise UserError(f"{looks} looks at a draft model's logits, and this drafter is no model; choose the policy fixed or cost_model.")
    return policy
