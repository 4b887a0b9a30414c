"""The one loop: draft, one target pass, verify, emit. Every method is this loop with other parts.

It yields rounds; experiments, consoles, servers and metrics all consume the same stream. Text, timing statistics and
prompts' lengths are other rooms' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Drafter, Runner, Scores, Stop, Verdict, Verifier


@dataclass(frozen=True)
class Step:
    """One round. tokens: emitted ids. origins, one for each: "target" (nothing was drafted), "draft" or "draft:STAGE", "bonus", "resample".

    drafted: nodes proposed, on paths of at most `depth`; accepted: nodes on the kept path, before any cut at a stop.
    draft_seconds and target_seconds: host time inside the drafter and the target's pass.
    entropy: nats, of the law behind the first drafted token, where the draft-length policy looked at it.
    finish: None until the last round, then "eos", "stop" or "length".
    """

    tokens: tuple[int, ...]
    origins: tuple[str, ...]
    drafted: int
    accepted: int
    draft_seconds: float
    target_seconds: float
    depth: int = 0
    entropy: float | None = None
    finish: str | None = None

    @property
    def counts(self) -> list[int]:
        """[drafted, accepted] of a chain, [drafted, accepted, depth] of a tree."""
        return [self.drafted, self.accepted] + ([self.depth] if self.depth != self.drafted else [])

    def cut(self, keep: int, finish: str) -> Step:
        return replace(self, tokens=self.tokens[:keep], origins=self.origins[:keep], finish=finish)


@dataclass(frozen=True)
class Round:
    """What was drafted, how the target scored it and what became of it; times as in `Step`."""

    draft: Draft
    scores: Scores
    verdict: Verdict
    draft_seconds: float
    target_seconds: float

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the round emits: the accepted path and the target's own token."""
        return (*(self.draft.ids[node] for node in self.verdict.path), self.verdict.token)

    def step(self) -> Step:
        draft, kept = self.draft, len(self.verdict.path)
        depth = len(draft) if draft.is_chain else max(draft.depths)
        times = (self.draft_seconds, self.target_seconds)
        return Step(self.tokens, origins(draft, self.verdict), len(draft), kept, *times, depth, draft.entropy)


@dataclass
class Decoder:
    """first_target: round 0 is the target's prefill alone; false lets even the first token be drafted."""

    target: Runner  # M_p
    drafter: Drafter  # M_q, or anything that proposes
    verifier: Verifier
    first_target: bool = True

    def __post_init__(self) -> None:
        if self.drafter.needs_trees and not self.target.trees:
            raise ValueError(
                f"{self.target.describe()} cannot verify token trees; choose a method that drafts chains (method=speculative), "
                "or a model with absolute or rotary positions and model_pair.target.attn_implementation=sdpa."
            )

    @property
    def lossless(self) -> bool:
        """The text has the target's own law."""
        return self.verifier.lossless

    def round(self, context: Context, limit: int, chance: Chance) -> Round:
        """Draft, score, verify: at most `limit` tokens. The context is not touched. In inference mode, entered if need be."""
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.round(context, limit, chance)
        began = perf_counter()
        draft = self.drafter.propose(context, limit - 1, chance)  # x_1 .. x_γ ~ q
        drafted = perf_counter()
        scores = self.target.logits(context, draft, rows=len(draft) + 1)  # p_1 .. p_γ+1, one pass
        scored = perf_counter()
        verdict = self.verifier(draft, scores.logits, chance)  # longest accepted path, then x ~ p'
        self.drafter.observe(draft, verdict, scores)
        return Round(draft, scores, verdict, drafted - began, scored - drafted)

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, chance: Chance) -> Iterator[Step]:
        """Rounds until `stop` cuts or max_new_tokens is reached; exactly as many tokens, never one more."""
        opening = self.target.start(prompt, max_new_tokens)
        self.drafter.start(prompt, max_new_tokens)
        context = Context(opening, self.target.device, capacity=len(opening) + max_new_tokens)
        generated: list[int] = []
        while len(generated) < max_new_tokens:
            prefill = self.first_target and not generated
            step = self.round(context, 1 if prefill else max_new_tokens - len(generated), chance).step()
            since = len(generated)
            generated.extend(step.tokens)
            context.append(step.tokens)
            if (cut := stop(generated, since)) is not None:
                yield step.cut(cut.keep - since, cut.finish)
                return
            yield step if len(generated) < max_new_tokens else replace(step, finish="length")


def origins(draft: Draft, verdict: Verdict) -> tuple[str, ...]:
    """Where each token of a round comes from: accepted draft nodes, then the target's own."""
    last = verdict.path[-1] if verdict.path else ROOT
    own = "target" if len(draft) == 0 else "resample" if draft.children(last) else "bonus"
    if not draft.stages:
        return ("draft",) * len(verdict.path) + (own,)
    return (*(f"draft:{draft.stages[node]}" for node in verdict.path), own)
