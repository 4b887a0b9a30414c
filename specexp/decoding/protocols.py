"""The interfaces between the decoding loop and its parts: runner, drafter, verifier and length rule.

`Drafter` and `LengthRule` are base classes whose defaults do nothing, so that a subclass overrides only what it needs. Nothing here
computes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.sampling import Draws, Sampling
from specexp.errors import UserError


class Verdict(NamedTuple):
    """What a verifier decides. path: the accepted nodes, from the root down. token: the one that the target adds after them."""

    path: tuple[int, ...]
    token: int


@dataclass(frozen=True)
class Cut:
    """Where a text ends: its first `keep` generated tokens are kept. finish is "eos" or "stop"."""

    keep: int
    finish: str


Proceeds = Callable[[int, Tensor, Tensor, Draws], "Tensor | bool"]
"""A question that is asked between two drafted tokens: shall one more be drafted? Its arguments are the number of tokens drafted, the [V]
logits that the last of them was drawn from, that token ([]), and the generation's draws.

An answer that is a tensor depends on the logits and the token alone and needs no synchronisation, so a rollout may compute all answers on
the device and cut the draft at the first no. The token already drawn is kept either way: if a rule could take it back, the text would be
biased.
"""

Stop = Callable[[Sequence[int], int], Cut | None]  # (generated ids, index of the first new one) -> where the text ends


@dataclass(frozen=True)
class Facts:
    """What stays true of a runner.

    kind: the name of its kind of cache, for tables and files ("full", "sink", ...). device: where it runs. trees: whether it can score
    drafts that are not chains. cache_exact: whether the model gives the same answers with this cache as without one. states: whether it
    can keep the model's hidden states.
    """

    kind: str
    device: object
    trees: bool
    cache_exact: bool
    states: bool = True

    def check_states(self) -> None:
        """Raises UserError for a runner that cannot keep states."""
        if not self.states:
            raise UserError(f"cache={self.kind} keeps no states, which this method needs; choose cache=full.")


@dataclass(frozen=True)
class Usage:
    """What a runner has used since its last `start`. forwards: the number of model passes. kv_bytes: the largest size of the filled cache.
    evicted: the number of tokens dropped from it."""

    forwards: int = 0
    kv_bytes: int = 0
    evicted: int = 0


class Runner(Protocol):
    """A model as a pure function (context, draft) -> logits. It may keep a cache, which saves work and changes no answer: the logits
    depend on the context and the draft, never on what was asked before."""

    facts: Facts
    tokens_evicted: int  # since the last `start`; the one figure of `usage` that is read every round, where the cache forgets

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Forget everything and make room for the prompt and max_new_tokens more. Even a repeated prompt is forgotten, so that its prefill
        is measured again.

        Returns the ids that the context begins with: the prompt itself, or an encoder-decoder model's start token."""

    def usage(self) -> Usage:
        """What this text has used so far."""

    def describe(self) -> str:
        """A few words about the model it runs, for a message to the user."""

    def room(self, context: Context) -> int | None:
        """The most tokens that may follow the context's last one in the same pass, on any path. None: there is no bound."""

    def ready(self, width: int) -> bool:
        """Whether a pass over `width` tokens that follow a text can run at once, without compiling or capturing something first."""

    def ready_to_draft(self, length: int, draws: Draws) -> bool:
        """Whether a rollout of `length` tokens can run at once, in the same sense."""

    def logits(self, context: Context, draft: Draft, rows: int) -> Tensor:
        """Return the logits of the draft in one pass: the last `rows` rows, [rows, V], of the N + 1 rows [context's last token, node 0,
        .., node N-1]. Each row holds the logits of the token that follows."""

    def keep_states(self) -> None:
        """Keep what `states` returns, from the next `start` on. Raises ValueError if the model or the cache does not allow it."""

    def states(self, context: Context) -> Tensor:
        """Return [len(context) - 1, D], what the output projection reads at every token of the context but the last.

        Like keys and values they are kept once they were computed, and missing ones are computed by a pass."""

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        """Draw x_1 .. x_length one after another from this model, on the device, without waiting for the host.

        `proceeds` may end the rollout early. It is asked between two tokens; each answer makes the host wait for the device, which costs
        less than the pass that a no saves.
        """


NO_MODELS: Mapping[str, Runner] = MappingProxyType({})


class Drafter:
    """Proposes drafts. This base class proposes nothing, learns nothing and uses no model; a subclass overrides what it needs."""

    needs_trees = False  # whether it proposes drafts that are not chains
    models: Mapping[str, Runner] = NO_MODELS  # the models it uses, by name

    def check(self, sampling: Sampling) -> None:
        """Raise UserError for a sampling rule under which it cannot work."""

    def prepare(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Do what is not to be timed. It is called before `start`. Drafters for tests and measurements decode the target's text here."""

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Forget everything; a new text begins. An encoder-decoder model's contexts do not contain the prompt, so a drafter that copies
        has to look at both."""

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        """Return a draft with at most `limit` nodes on any path; for limit 0 that is the empty draft."""
        return empty_draft(context.device)

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        """Learn what was accepted of the draft, for lengths that adapt and tables that learn. logits: [N + 1, V], the target's."""


class Verifier(Protocol):
    """Decides which drafted tokens are kept. lossless: whether the text then has exactly the target's distribution."""

    lossless: bool

    def __call__(self, draft: Draft, logits: Tensor, draws: Draws) -> Verdict:
        """Verify the draft. logits: [N + 1, V], the target's; row 0 says what follows the context, row i + 1 what follows node i."""


class LengthRule:
    """Says how long a draft is. A subclass overrides what it needs; what it leaves out costs no time in the loop."""

    proceeds: Proceeds | None = None  # for rules that look at the drafter's logits; they need a drafter that is a model
    entropy: Tensor | float | None = None  # in nats, of the distribution of this round's first token, if the rule looked at it

    def start(self) -> None:
        """A new prompt begins. The rule may keep what it has learnt."""

    def length(self) -> int:
        """Return the most tokens to draft in the round that begins now. The answer depends on earlier rounds alone."""
        raise NotImplementedError(f"{type(self).__name__} says no length")

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn how many tokens were drafted and accepted. This is also called after rounds for which no length was asked, such as the
        prefill (0, 0)."""


def within(limit: int, room: int | None) -> int:
    """Return the smaller of `limit` and a runner's `room` (None: no bound). A streaming cache evicts at fixed places of the text, and no
    pass may reach across such a place; so every method sees the same cache at every token."""
    return limit if room is None or room > limit else room
