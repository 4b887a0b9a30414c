"""The decoding loop: draft some tokens, score them in one target pass, verify them, emit what was accepted, and begin again.

Every method uses this loop and differs in its drafter and its verifier; only beam search (beam.py) and the loops of other libraries have
their own. The loop yields a `Round` each time, and experiments, the console and the server all read the same stream of rounds. It knows
nothing of text, of statistics, or of how long a prompt may be.
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


class Round(NamedTuple):  # cheaper to make than a frozen data class, and one is made every round
    """The record of one round. tokens: the emitted ids, which are those of the draft's accepted path and then the target's own.

    nodes, parents, stages: the draft's ids, parents and stages, as in `Draft`. path: the numbers of its accepted nodes, before the text is
    cut at a stop.
    draft_seconds and target_seconds: time on the host inside the drafter and inside the target's pass; None where it is not known.
    entropy: in nats, of the distribution that the first drafted token came from, if the length rule looked at it.
    emitted: the time by `perf_counter` at which the tokens appeared, if that was earlier than this round is yielded (other libraries'
    loops); None: they appear now.
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
        """[drafted, accepted] for a chain, and [drafted, accepted, depth, leaves, refused] for a tree."""
        if self.is_chain:
            return [self.drafted, self.accepted]
        return [self.drafted, self.accepted, max(depths(self.parents)), self.drafted - len(set(self.parents) - {ROOT}), int(self.refused)]

    @property
    def refused(self) -> bool:
        """Whether drafted tokens followed the end of the accepted path and the target took none of them."""
        return (self.path[-1] if self.path else ROOT) in self.parents

    @property
    def origins(self) -> tuple[str, ...]:
        """Where each token came from: "draft" or "draft:STAGE" for the accepted ones; for the target's own, which is the last, "bonus" if
        the path was accepted to its end, "resample" after a refusal, and "target" if nothing had been drafted."""
        if not self.parents:
            return ("target",) * len(self.tokens)
        own = "resample" if self.refused else "bonus"
        kept = [f"draft:{self.stages[node]}" for node in self.path] if self.stages else ["draft"] * len(self.path)
        return (*kept, own)[: len(self.tokens)]

    def cut(self, keep: int, finish: str) -> Round:
        return self._replace(tokens=self.tokens[:keep], finish=finish)


class Judged(NamedTuple):
    """What was drafted in a round, how the target scored it and what was accepted. The times are as in `Round`."""

    draft: Draft
    logits: Tensor  # [N + 1, V]
    verdict: Verdict
    draft_seconds: float
    target_seconds: float

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids that the round emits: those of the accepted path, and then the target's own token."""
        return (*map(self.draft.ids.__getitem__, self.verdict.path), self.verdict.token)

    def as_round(self) -> Round:
        draft, path = self.draft, self.verdict.path
        return Round(self.tokens, draft.ids, draft.parents, path, draft.stages, self.draft_seconds, self.target_seconds, draft.entropy)


@dataclass
class Decoder:
    """A method: a target model, a drafter and a verifier, run by the loop in `generate`.

    first_target: the first round is the target's prefill alone, which emits one token. If false, even the first token is drafted.
    """

    target: Runner  # M_p
    drafter: Drafter  # M_q, or anything that proposes
    verifier: Verifier
    first_target: bool = True
    follows_sampling: ClassVar[bool] = True  # it draws its tokens by the sampling rule

    def __post_init__(self) -> None:
        if self.drafter.needs_trees and not self.target.facts.trees:
            raise ValueError(
                f"{self.target.describe()} cannot verify token trees; choose a method that drafts chains (method=speculative), "
                "or a model with absolute or rotary positions and model_pair.target.attn_implementation=sdpa."
            )

    @property
    def lossless(self) -> bool:
        """Whether the text has exactly the distribution that the target alone would give it."""
        return self.verifier.lossless

    def check(self, sampling: Sampling) -> None:
        """Raise UserError for a sampling rule under which the method cannot work."""
        self.drafter.check(sampling)

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Do the drafter's work that is not to be timed."""
        self.drafter.prepare(prompt, max_new_tokens)

    def round(self, context: Context, limit: int, draws: Draws) -> Judged:
        """Draft, score and verify once, for at most `limit` emitted tokens. The context is not changed. The round runs in torch's
        inference mode, which is entered here unless the caller is in it already."""
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
        return Judged(draft, logits, verdict, drafted - began, scored - drafted)

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Round]:
        """Yield rounds until `stop` ends the text or max_new_tokens tokens were emitted. There is never a token beyond that number."""
        opening = self.target.start(prompt, max_new_tokens)
        self.drafter.start(prompt, max_new_tokens)
        context = Context(opening, self.target.facts.device, capacity=len(opening) + max_new_tokens)
        generated: list[int] = []
        while len(generated) < max_new_tokens:
            prefill = self.first_target and not generated
            made = self.round(context, 1 if prefill else max_new_tokens - len(generated), draws).as_round()
            since = len(generated)
            generated.extend(made.tokens)
            context.append(made.tokens)
            if (cut := stop(generated, since)) is not None:
                yield made.cut(cut.keep - since, cut.finish)
                return
            yield made if len(generated) < max_new_tokens else made._replace(finish="length")
