"""A vertical cascade: a drafter that is itself a decoder. One of its rounds is the draft: what a smaller model's proposals
became under a bigger model's review, so the bigger one never drafts token by token (Chen et al. 2023, arXiv:2312.11462, section 3.1).

Knows nothing of K matrices or of how many levels there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Runner, Scores, Verdict


class CascadeDrafter:
    """Each draft is one round of `decoder`: accepted tokens and the one its target adds. name: of that target.

    An exact decoder's tokens have its target's law, which is handed up as q. Those of a lenient one have no law that anybody knows, so
    they are point masses. Either way whoever reviews them stays exact. (A round's length depends on draws that were made before its
    last token's, never on that token's own, so q holds for every token there is.)
    """

    needs_trees = needs_hidden = False

    def __init__(self, decoder: Decoder, name: str = "draft"):
        self.decoder, self.name = decoder, name

    @property
    def models(self) -> dict[str, Runner]:
        return {self.name: self.decoder.target, **self.decoder.drafter.models}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.decoder.target.start(prompt, max_new_tokens)
        self.decoder.drafter.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        if limit == 0:
            return empty_draft(context.device)
        inner = self.decoder.round(context, limit, chance)
        tokens = torch.tensor(inner.tokens, device=context.device)
        rows = torch.tensor([0, *(node + 1 for node in inner.verdict.path)], device=context.device)
        q, confidence = self._laws(inner.scores.logits.index_select(0, rows), tokens)
        draft = Draft.chain(tokens, q, confidence=confidence)
        draft.__dict__["ids"] = inner.tokens
        return draft

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        """What the level above did with the draft changes nothing here: the decoder's own drafter was told by its own rounds."""

    def _laws(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """[n, V] logits behind which the n tokens stand -> (q or None for point masses, the model's own probability of each token)."""
        verifier = self.decoder.verifier
        if verifier.lossless and not verifier.sampling.is_greedy:
            return verifier.sampling(logits), None
        return None, logits.float().softmax(-1).gather(1, tokens[:, None])[:, 0]
