"""The small interfaces between the loop and its parts. Nothing here computes anything.

How far a round may draft: a streaming cache evicts at fixed places of the text, and no pass may reach across one.

So every method meets the same cache at every token, however many tokens its passes hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.sampling import Chance, Sampling


class Scores(NamedTuple):  # cheaper to make than a frozen data class, and some are made every round
    """logits: [rows, V]; hidden: [rows, D] for drafters that declare `needs_hidden`."""

    logits: Tensor
    hidden: Tensor | None = None


class Verdict(NamedTuple):
    """path: accepted nodes from the root down. token: the one the target adds behind them."""

    path: tuple[int, ...]
    token: int


@dataclass(frozen=True)
class Cut:
    """Keep the first `keep` generated tokens; finish is "eos" or "stop"."""

    keep: int
    finish: str


Proceeds = Callable[[int, Tensor, Tensor], "Tensor | bool"]
"""(tokens drafted, [V] logits that the last of them was drawn from, that token []) -> whether one more is to be drafted.

A tensor answer is a pure function of logits and token, without a sync, so that a rollout may compute all answers on the device and cut at
the first no. What was drawn is kept either way: a rule could otherwise undo a draw, and bias the text.
"""

Stop = Callable[[Sequence[int], int], Cut | None]  # (generated ids, index of the first new one) -> where the text ends


class Runner(Protocol):
    """A pure function (context, draft) -> logits; any cache behind it is a memo of that function."""

    device: object
    trees: bool  # whether drafts that are no chains can be scored
    cache_exact: bool  # the cache changes nothing about the model
    forwards: int  # model passes since construction
    kv_bytes: int  # largest size of the filled cache since `start`
    tokens_evicted: int  # removed from the cache since `start`; 0 where it forgets nothing

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Forget everything (a repeated prompt must not skip its prefill) and make room for as many tokens more.

        Returns the ids that the context begins with: the prompt itself, or an encoder-decoder model's start token."""

    def describe(self) -> str:
        """What it runs, for a message to the user."""

    def room(self, context: Context) -> int | None:
        """How many tokens behind the context's last one may be fed together with it, on any path; None: no bound."""

    def ready(self, width: int) -> bool:
        """Whether a pass over `width` tokens behind a text needs no preparation that would take long (compiling, capturing)."""

    def ready_to_draft(self, length: int, sampling: Sampling) -> bool:
        """The same of a rollout of `length` tokens."""

    def keep_hidden(self) -> None:
        """From now on `Scores.hidden` holds what the output projection reads, row for row with `logits`. ValueError where impossible."""

    def logits(self, context: Context, draft: Draft, rows: int) -> Scores:
        """The last `rows` rows of [context's last token, node 0, .., node N-1], in one pass."""

    def rollout(self, context: Context, length: int, sampling: Sampling, chance: Chance, proceeds: Proceeds | None = None) -> Draft:
        """x_1 .. x_length drawn one after another from this model, on the device, without a host sync.

        `proceeds` ends it early; it is asked between two tokens, where a no spares a pass.
        The answer is a sync, which costs less than the pass.
        """


class Drafter(Protocol):
    needs_trees: bool  # proposes drafts that are no chains
    needs_hidden: bool  # reads `Scores.hidden` when it observes
    models: Mapping[str, Runner]  # the models it asks, by name; none for drafters without a model

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Forget everything. An encoder-decoder model's contexts do not contain the prompt; who copies, copies from both."""

    def propose(self, context: Context, limit: int, chance: Chance) -> Draft:
        """At most `limit` nodes on any path; the empty draft for limit 0."""

    def observe(self, draft: Draft, verdict: Verdict, scores: Scores) -> None:
        """What became of the draft (for adaptive lengths and tables that learn)."""


@runtime_checkable
class Foresighted(Protocol):
    """A drafter, of tests and measurements, that is told the target's text: whoever times calls `prepare` before the clock starts."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None: ...


class Verifier(Protocol):
    lossless: bool

    def __call__(self, draft: Draft, logits: Tensor, chance: Chance) -> Verdict:
        """logits: [N + 1, V], row 0 behind the context, row i + 1 behind node i."""


class Policy(Protocol):
    """Draft lengths. A subclass overrides what it needs; what it does not costs nothing in the loop."""

    proceeds: Proceeds | None = None  # for policies that look at the drafter's logits: only a drafter that has some can serve them
    entropy: Tensor | float | None = None  # nats, of the law this round's first token was drawn from, where the policy looked at it

    def start(self) -> None:
        """A new prompt begins. What was learnt may be kept."""

    def length(self) -> int:
        """At most how many tokens to draft in the round that begins now, from the past alone."""

    def observe(self, drafted: int, accepted: int) -> None:
        """What became of the draft. Also told of rounds whose length was never asked for (the prefill: 0, 0)."""


def within(limit: int, room: int | None) -> int:
    """`limit`, or a runner's `room` where that is less (None: no bound)."""
    return limit if room is None or room > limit else room
