"""The small interfaces between the loop and its parts, with the defaults of parts that need no more. Nothing here computes anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.sampling import Draws, Sampling


class Verdict(NamedTuple):
    """path: accepted nodes from the root down. token: the one the target adds behind them."""

    path: tuple[int, ...]
    token: int


@dataclass(frozen=True)
class Cut:
    """Keep the first `keep` generated tokens; finish is "eos" or "stop"."""

    keep: int
    finish: str


Proceeds = Callable[[int, Tensor, Tensor, Draws], "Tensor | bool"]
"""(tokens drafted, [V] logits that the last of them was drawn from, that token [], the generation's draws) -> whether one more is to be
drafted.

A tensor answer is a pure function of logits and token, without a sync, so that a rollout may compute all answers on the device and cut at
the first no. What was drawn is kept either way: a rule could otherwise undo a draw, and bias the text.
"""

Stop = Callable[[Sequence[int], int], Cut | None]  # (generated ids, index of the first new one) -> where the text ends


@dataclass(frozen=True)
class Facts:
    """What is true of a runner as long as it lives.

    kind: the cache's, for tables and files ("full", "sink", ...). device: where it runs. trees: whether drafts that are no chains can be
    scored. cache_exact: the cache changes nothing about the model.
    """

    kind: str
    device: object
    trees: bool
    cache_exact: bool


@dataclass(frozen=True)
class Usage:
    """Since a runner's last `start`. forwards: model passes. kv_bytes: the filled cache at its largest. evicted: tokens dropped from it."""

    forwards: int = 0
    kv_bytes: int = 0
    evicted: int = 0


class Runner(Protocol):
    """A pure function (context, draft) -> logits; any cache behind it is a memo of that function."""

    facts: Facts

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Forget everything (a repeated prompt must not skip its prefill) and make room for as many tokens more.

        Returns the ids that the context begins with: the prompt itself, or an encoder-decoder model's start token."""

    def usage(self) -> Usage:
        """What this text has taken so far."""

    def describe(self) -> str:
        """What it runs, for a message to the user."""

    def room(self, context: Context) -> int | None:
        """How many tokens behind the context's last one may be fed together with it, on any path; None: no bound."""

    def ready(self, width: int) -> bool:
        """Whether a pass over `width` tokens behind a text needs no preparation that would take long (compiling, capturing)."""

    def ready_to_draft(self, length: int, draws: Draws) -> bool:
        """The same of a rollout of `length` tokens."""

    def logits(self, context: Context, draft: Draft, rows: int) -> Tensor:
        """[rows, V]: the last `rows` rows of [context's last token, node 0, .., node N-1], in one pass."""

    def keep_states(self) -> None:
        """From the next `start` on `states` can be asked. ValueError where the model or the cache cannot have them."""

    def states(self, context: Context) -> Tensor:
        """[len(context) - 1, D]: what the output projection reads behind every token of the context but the last.

        A memo like keys and values: what was computed for them is kept, and what is missing is computed by a pass."""

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        """x_1 .. x_length drawn one after another from this model, on the device, without a host sync.

        `proceeds` ends it early; it is asked between two tokens, where a no spares a pass.
        The answer is a sync, which costs less than the pass.
        """


NO_MODELS: Mapping[str, Runner] = MappingProxyType({})


class Drafter:
    """What proposes. A subclass overrides what it needs; this class proposes nothing, learns nothing and asks no model."""

    needs_trees = False  # proposes drafts that are no chains
    models: Mapping[str, Runner] = NO_MODELS  # the models it asks, by name

    def check(self, sampling: Sampling) -> None:
        """UserError for a sampling rule under which it cannot work."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """What is not to be timed (drafters of tests and measurements are told the target's text). Comes before `start`."""

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Forget everything. An encoder-decoder model's contexts do not contain the prompt; who copies, copies from both."""

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        """At most `limit` nodes on any path; the empty draft for limit 0."""
        return empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """What became of the draft (for lengths that adapt and tables that learn). logits: [N + 1, V], the target's."""


class Verifier(Protocol):
    lossless: bool

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        """logits: [N + 1, V], row 0 behind the context, row i + 1 behind node i."""


class LengthRule:
    """How long a draft is. A subclass overrides what it needs; what it does not costs nothing in the loop."""

    proceeds: Proceeds | None = None  # for rules that look at the drafter's logits: only a drafter that has some can serve them
    entropy: Tensor | float | None = None  # nats, of the law this round's first token was drawn from, where the rule looked at it

    def start(self) -> None:
        """A new prompt begins. What was learnt may be kept."""

    def length(self) -> int:
        """At most how many tokens to draft in the round that begins now, from the past alone."""
        raise NotImplementedError(f"{type(self).__name__} says no length")

    def observe(self, drafted: int, accepted: int) -> None:
        """What became of the draft. Also told of rounds whose length was never asked for (the prefill: 0, 0)."""


def within(limit: int, room: int | None) -> int:
    """`limit`, or a runner's `room` where that is less (None: no bound): a streaming cache evicts at fixed places of the text, and no pass
    may reach across one, so that every method meets the same cache at every token."""
    return limit if room is None or room > limit else room
