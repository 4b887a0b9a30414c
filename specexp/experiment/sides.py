"""A side is whatever answers a prompt while it is timed: our decoder, another maker's loop over the same weights, or a served endpoint.
One experiment runs any of them.

The second part turns examples into what sides are asked and reads their answers: models of ours are asked by ids, served ones by text
alone. This module knows neither data sets nor files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import isnan
from typing import Protocol

from torch.nn import Module

from specexp.datasets import Example, Message, transcript
from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Runner, Stop
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError, whole
from specexp.experiment.generation import Generation, continuation_nll, generate, opening
from specexp.experiment.guard import guard
from specexp.peers import PeerLoop
from specexp.peers.endpoint import Endpoint, Refused, Reply
from specexp.scoring.texts import cut_at
from specexp.text import Prompter
from specexp.text.stopping import Stopping

Prompt = Sequence[int] | str | Sequence[Message]  # ids for our own models, a text or a conversation for a server's
WARMUP_TOKENS = 32  # after which a warm-up ends


@dataclass(frozen=True)
class Failure:
    """A request that was refused for good. side: the side that was asked."""

    side: str
    example: str
    code: int
    message: str


class Side(Protocol):
    """What answers prompts. concurrency: how many prompts it answers at once."""

    concurrency: int

    def warmup_tokens(self, max_new_tokens: int) -> int:
        """How many tokens the warm-up asks for, where a text has max_new_tokens."""

    def generate(self, prompt: Prompt, max_new_tokens: int, stop: Stop, seed: tuple) -> Generation | Reply:
        """One text, timed. Raises Refused where a server did not answer as asked."""

    def facts(self) -> dict[str, object]:
        """What is true of this side in this run, for the record: lossless and cache_exact."""

    def close(self) -> None:
        """Gives up what the side holds."""


@dataclass
class DecoderSide:
    """decoder: our loop, or a peer's, over weights that are in this process."""

    decoder: Decoder
    sampling: Sampling
    concurrency: int = field(default=1, init=False)

    def warmup_tokens(self, max_new_tokens: int) -> int:
        """All, as buffers are made for a whole text; the warm-up is cut short by its stop."""
        return max_new_tokens

    def generate(self, prompt: Prompt, max_new_tokens: int, stop: Stop, seed: tuple) -> Generation:
        return generate(self.decoder, prompt, max_new_tokens, stop, self.sampling, seed)

    def facts(self) -> dict[str, object]:
        return {"lossless": self.decoder.lossless, "cache_exact": self.decoder.target.facts.cache_exact}

    def close(self) -> None:
        """Gives up what another maker's loop holds; the weights belong to all sides."""
        if isinstance(self.decoder, PeerLoop):
            self.decoder.close()


@dataclass
class ServedSide:
    """endpoint: a server. stop_strings: where it is asked to end; a text that continues after one is cut by `ServedTexts`."""

    endpoint: Endpoint
    sampling: Sampling
    stop_strings: Sequence[str] = ()
    ignore_eos: bool = False

    @property
    def concurrency(self) -> int:
        return self.endpoint.concurrency

    def warmup_tokens(self, max_new_tokens: int) -> int:
        """A few, since a server cannot be told to stop."""
        return min(max_new_tokens, WARMUP_TOKENS)

    def generate(self, prompt: Prompt, max_new_tokens: int, stop: Stop, seed: tuple) -> Reply:
        """`stop` is not used, because the server is given its stop strings."""
        stops = () if self.ignore_eos else tuple(self.stop_strings)
        return self.endpoint.complete(prompt, max_new_tokens, stops, self.ignore_eos, self.sampling, seed_number(seed))

    def facts(self) -> dict[str, object]:
        return {"lossless": None, "cache_exact": None}

    def close(self) -> None:
        self.endpoint.close()


def seed_number(seed: tuple) -> int:
    """A whole number that any server takes, derived from (seed, example, sample)."""
    return int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:4], "big") >> 1


def answers(side: Side, prompts: Iterable[tuple[Prompt, tuple]], max_new_tokens: int, stop: Stop) -> Iterator[Generation | Reply | Refused]:
    """The answers to each (prompt, seed), in their order, with as many at once as the side takes; a refusal stands in the place of its
    answer.
    """
    ask = partial(_answer, side, max_new_tokens, stop)
    if side.concurrency == 1:
        yield from map(ask, prompts)
        return
    with ThreadPoolExecutor(side.concurrency, "request") as pool:
        yield from pool.map(ask, prompts)


def _answer(side: Side, max_new_tokens: int, stop: Stop, asked: tuple[Prompt, tuple]) -> Generation | Reply | Refused:
    try:
        return side.generate(asked[0], max_new_tokens, stop, asked[1])
    except Refused as error:
        return error


@dataclass
class OwnTexts:
    """Reads the texts of models in this process. models: by role ("target", a draft's name), those whose numbers are checked. runners: with
    their roles, those whose caches are checked. There are none of both before weights are loaded.

    prompter: makes the prompts' ids. stop: where a text ends. context_length: how many tokens prompt and text may have together, or None.
    switches: lengths that no text may cross while it is written, each with the model that is to blame. rows: how many ids each model's
    embedding has, by the model's name.
    """

    dataset: object
    prompter: Prompter
    stop: Stopping
    max_new_tokens: int
    context_length: int | None = None
    models: dict[str, object] = field(default_factory=dict)
    runners: Sequence[tuple[str, Runner]] = ()
    switches: Mapping[int, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    _likelihoods: dict[tuple, tuple[float, int]] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self):
        return self.prompter.tokenizer

    @property
    def target(self) -> Module:
        return self.models["target"]

    def prompts(self, examples: Sequence[Example]) -> dict[str, list[int]]:
        """Token ids by example, checked against the context before anything is decoded."""
        encoded = {example.id: self._ids(example) for example in examples}
        for name, ids in encoded.items():
            if not ids:
                raise UserError(f"the prompt of {name} is empty; give at least one token.")
            if self.context_length is not None and len(ids) + self.max_new_tokens > self.context_length:
                raise UserError(
                    f"{name} has {len(ids)} prompt tokens and max_new_tokens={self.max_new_tokens} more do not fit the models' context "
                    f"of {self.context_length}; lower max_new_tokens, or choose other prompts."
                )
            if (crossed := crossing(self.switches, len(ids), self.max_new_tokens)) is not None:
                raise UserError(
                    f"{name} has {len(ids)} prompt tokens, and with max_new_tokens={self.max_new_tokens} more its text would cross "
                    f"{crossed}, where {self.switches[crossed]} rotates all positions otherwise; give max_new_tokens={crossed - len(ids)}, "
                    "or choose other prompts."
                )
            check_ids(ids, self.rows, name)
        return encoded

    def _ids(self, example: Example) -> list[int]:
        _check_whole(example)
        return self.prompter.chat_ids(example.messages) if example.messages else self.prompter.ids(example.prompt)

    def seen(self, example: Example) -> str:
        """The prompt as text, as the model sees it: with what a chat template puts around it."""
        return self.prompter.rendered(example.messages) if example.messages else example.prompt

    def check(self, prompt: Sequence[int]) -> None:
        """Raises UserError for a model whose likelihood of the prompt's last token is not a number, and for one that is wrong with its
        cache. It takes a few short passes of each model; a drafter without a model of its own (the target's first layers) is checked with
        the target.
        """
        for role, model in self.models.items():
            if isinstance(model, Module) and isnan(continuation_nll(model, prompt, prompt[-1:], self.context_length)[0]):
                raise _not_a_number(f"the {role} model", model, "the first prompt")
        guard(self.runners, prompt)

    def read(self, example: object, prompt: Sequence[int], answer: Generation) -> dict[str, object]:
        ids = answer.token_ids
        text = self.stop.text(opening(self.target, prompt), ids)
        found = {"text": text, "ends": self.stop.ends(ids, text), "score": self.dataset.score(example, text)}
        if (tree := answer.record().tree) is not None:
            texts = {part: [self.tokenizer.decode([id]) for id in tree[part]] for part in ("nodes", "own")}
            found["tree"] = {**tree, "texts": texts}
        nll, count = self._likelihood(prompt, ids)
        return found | {"nll_sum": nll, "nll_count": count}

    def _likelihood(self, prompt: Sequence[int], token_ids: Sequence[int]) -> tuple[float, int]:
        """The likelihood under the target, computed once where the sides of a lossless method wrote the same text."""
        key = (tuple(prompt), tuple(token_ids))
        if key not in self._likelihoods:
            self._likelihoods.clear()
            self._likelihoods[key] = continuation_nll(self.target, prompt, token_ids, self.context_length)
            if isnan(self._likelihoods[key][0]):
                raise _not_a_number("the target model", self.target, "a text that it wrote")
        return self._likelihoods[key]


def crossing(switches: Iterable[int], prompt: int, more: int) -> int | None:
    """The length at which a model would rotate all positions otherwise while `more` tokens are written after `prompt` of them."""
    return next((length for length in switches if prompt <= length < prompt + more), None)


def _check_whole(example: Example) -> None:
    """UserError for half a character, which no tokenizer takes and no request can hold."""
    for text in (example.prompt, *(message["content"] for message in example.messages)):
        whole(text, f"the prompt of {example.id}")


def check_ids(ids: Sequence[int], rows: Mapping[str, int], name: str) -> None:
    """Raises UserError for a text with an id that a model's embedding does not have. rows: by the model's name. name: of the text."""
    for model, count in rows.items():
        if (largest := max(ids, default=0)) >= count:
            raise UserError(
                f"{name} has the id {largest}, and {model} has embeddings for {count} ids: its tokenizer was given tokens that its weights "
                "do not have; choose the tokenizer that the weights were made with, or resize the embeddings."
            )


@dataclass
class ServedTexts:
    """Reads the texts of models that a server runs: it gets the prompts as texts or as messages, and a text that went past a stop string
    is cut.
    """

    dataset: object
    stop: Stop = lambda ids, since: None

    def prompts(self, examples: Sequence[Example]) -> dict[str, str | Sequence[Message]]:
        """Texts, or conversations, by example; the server decides whether they fit."""
        for example in examples:
            _check_whole(example)
            if not example.prompt:
                raise UserError(f"the prompt of {example.id} is empty; give at least one token.")
        return {example.id: example.messages or example.prompt for example in examples}

    def seen(self, example: Example) -> str:
        """The prompt as text. How a server renders a conversation is not known."""
        return transcript(example.messages) if example.messages else example.prompt

    def check(self, prompt: str) -> None:
        """Does nothing, since a server's models cannot be inspected."""

    def read(self, example: object, prompt: str, answer: Reply) -> dict[str, object]:
        """The text is cut here too, since a server may keep the stop string, or know only some of them."""
        text = cut_at(answer.text, self.dataset.stop_strings)
        return {"text": text, "score": self.dataset.score(example, text)}


def _not_a_number(role: str, model: Module, read: str) -> UserError:
    dtype = str(model.dtype).removeprefix("torch.")
    return UserError(f"{role} ({model.config._name_or_path}) computes NaN for {read} in {dtype}: give it another, such as dtype=float32.")
