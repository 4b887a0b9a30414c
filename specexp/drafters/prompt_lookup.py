"""Prompt lookup: a few ids are enough to find a place to copy from (Saxena 2023; LLMA, Yang et al. 2023, arXiv:2304.04487)."""

from __future__ import annotations

from specexp.decoding.protocols import Policy
from specexp.drafters.copying import CopyDrafter
from specexp.drafters.matching import HashedMatch
from specexp.errors import UserError


class PromptLookupDrafter(CopyDrafter):
    """Copies what followed the latest earlier occurrence of the last `max_ngram` ids, else of a shorter suffix down to `min_ngram`."""

    def __init__(self, policy: Policy, max_ngram: int = 3, min_ngram: int = 1):
        if not 1 <= min_ngram <= max_ngram:
            raise UserError(f"prompt lookup needs 1 <= min_ngram <= max_ngram, not min_ngram={min_ngram} and max_ngram={max_ngram}.")
        super().__init__(policy, HashedMatch(min_ngram, max_ngram))
