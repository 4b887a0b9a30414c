"""The one loop: draft, one target pass, verify, emit. Every method is this loop with other parts.

It yields rounds; experiments, consoles, servers and metrics all consume the same stream. Text, timing statistics and
prompts' lengths are other rooms' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, chain_parents, depths
from specexp.decoding.protocols import Drafter, Runner, Stop, Verdict, Verifier, within
from specexp.decoding.sampling import Draws, Sampling


class Step(NamedTuple):  # cheaper to make than a frozen data class, and one is made every round
    """One round. tokens: emitted ids, those of the draft's accepted path and the target's own.

    nodes, parents, stages: the draft, as in `Draft`; path: the accepted ones of its nodes, before any cut at a stop.
    draft_seconds and target_seconds: host time inside the drafter and the target's pass; None where that is not known.
    entropy: nats, of the law behind the first drafted token, where the draft-length policy looked at it.
    emitted: `perf_counter` seconds, where the tokens came before the stream could hand them out (peers); None: now.
    finish: None until the last round, then "eos", "stop" or "length".
    """

    tokens: tuple[int, ...]
    nodes: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    stages: tuple[str, ...] = ()
    draft_seconds: float | None = 0.0
    target_seconds: float | None = 0.0
    entropy: float | None = None
    finish: str | None = None
    emitted: float | None = None

    @property
    def drafted(self) -> int:
        return len(self.parents)

    @property
    def accepted(self) -> int:
        return len(self.path)

    @property
    def is_chain(self) -> bool:
        return self.parents == chain_parents(len(self.parents))

    @property
    def counts(self) -> list[int]:
        """[drafted, accepted] of a chain, [drafted, accepted, depth, leaves, refused] of a tree."""
        if self.is_chain:
            return [self.drafted, self.accepted]
        return [self.drafted, self.accepted, max(depths(self.parents)), self.drafted - len(set(self.parents) - {ROOT}), int(self.refused)]

    @property
    def refused(self) -> bool:
        """The path could have gone on: behind its end were drafted tokens, and the target took none of them."""
        return (self.path[-1] if self.path else ROOT) in self.parents

    @property
    def origins(self) -> tuple[str, ...]:
        """Of each token: "draft" or "draft:STAGE"; the last one's "bonus" behind a whole path, "resample" after a refusal; "target" where
        nothing was drafted."""
        if not self.parents:
            return ("target",) * len(self.tokens)
        own = "resample" if self.refused else "bonus"
        kept = [f"draft:{self.stages[node]}" for node in self.path] if self.stages else ["draft"] * len(self.path)
        return (*kept, own)[: len(self.tokens)]

    def cut(self, keep: int, finish: str) -> Step:
        return self._replace(tokens=self.tokens[:keep], finish=finish)


class Round(NamedTuple):
    """What was drafted, how the target scored it and what became of it; times as in `Step`."""

    draft: Draft
    logits: Tensor  # [N + 1, V]
    verdict: Verdict
    draft_seconds: float
    target_seconds: float

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the round emits: the accepted path and the target's own token."""
        return (*map(self.draft.ids.__getitem__, self.verdict.path), self.verdict.token)

    def step(self) -> Step:
        draft, path = self.draft, self.verdict.path
        return Step(self.tokens, draft.ids, draft.parents, path, draft.stages, self.draft_seconds, self.target_seconds, draft.entropy)


@dataclass
class Decoder:
    """first_target: round 0 is the target's prefill alone; false lets even the first token be drafted."""

    target: Runner  # M_p
    drafter: Drafter  # M_q, or anything that proposes
    verifier: Verifier
    first_target: bool = True
    draws: ClassVar[bool] = True  # tokens, by the sampling rule

    def __post_init__(self) -> None:
        if self.drafter.needs_trees and not self.target.facts.trees:
            raise ValueError(
                f"{self.target.describe()} cannot verify token trees; choose a method that drafts chains (method=speculative), "
                "or a model with absolute or rotary positions and model_pair.target.attn_implementation=sdpa."
            )

    @property
    def lossless(self) -> bool:
        """The text has the target's own law."""
        return self.verifier.lossless

    def check(self, sampling: Sampling) -> None:
        """UserError for a sampling rule under which the method cannot work."""
        self.drafter.check(sampling)

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """What is not to be timed."""
        self.drafter.prepare(prompt, max_new_tokens)

    def round(self, context: Context, limit: int, draws: Draws) -> Round:
        """Draft, score, verify: at most `limit` tokens. The context is not touched. In inference mode, entered if need be."""
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.round(context, limit, draws)
        began = perf_counter()
        draft = self.drafter.propose(context, within(limit - 1, self.target.room(context)), draws)  # x_1 .. x_γ ~ q
        drafted = perf_counter()
        logits = self.target.logits(context, draft, rows=len(draft) + 1)  # p_1 .. p_γ+1, one pass
        scored = perf_counter()
        verdict = self.verifier(draft, logits, draws)  # longest accepted path, then x ~ p'
        self.drafter.observe(draft, verdict, logits)
        return Round(draft, logits, verdict, drafted - began, scored - drafted)

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Step]:
        """Rounds until `stop` cuts or max_new_tokens is reached; exactly as many tokens, never one more."""
        opening = self.target.start(prompt, max_new_tokens)
        self.drafter.start(prompt, max_new_tokens)
        context = Context(opening, self.target.facts.device, capacity=len(opening) + max_new_tokens)
        generated: list[int] = []
        while len(generated) < max_new_tokens:
            prefill = self.first_target and not generated
            step = self.round(context, 1 if prefill else max_new_tokens - len(generated), draws).step()
            since = len(generated)
            generated.extend(step.tokens)
            context.append(step.tokens)
            if (cut := stop(generated, since)) is not None:
                yield step.cut(cut.keep - since, cut.finish)
                return
            yield step if len(generated) < max_new_tokens else step._replace(finish="length")
