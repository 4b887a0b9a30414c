"""This room holds data sets: examples with their prompts, the score of one text, and the metrics of all. It knows no models and no
configuration.

What every data set is made of and offers: examples, how they are asked (raw, each prompt as it stands, or in chat, as messages that a chat
template or a server renders), scores and metrics. This module knows neither files, kinds of scores nor tokenizers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Protocol, TypeVar

from specexp.errors import UserError, whole

Score = dict[str, bool | float | str]
Message = Mapping[str, str]  # role, content


@dataclass(frozen=True)
class Example:
    """One task of a data set. `id` is unique in its data set, because records are found again by it. messages: the conversation that is
    asked in chat; empty where the prompt is asked as it stands.
    """

    id: str
    prompt: str
    messages: tuple[Message, ...] = field(default=(), kw_only=True)


E = TypeVar("E", bound=Example)


class Dataset(Protocol):
    name: str
    stop_strings: tuple[str, ...]  # generation ends before the first of them by position
    max_new_tokens: int

    def examples(self) -> list[Example]:
        """The chosen examples, in the data set's order. Raises UserError for missing or malformed data."""

    def score(self, example: Example, text: str) -> Score:
        """The score of one generated text."""

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        """The metrics of all texts, with the keys of summary.json; scores[i] holds the samples of example i."""

    def sample_line(self, example: Example, text: str) -> dict[str, str] | None:
        """The line of samples.jsonl for a text; None where the data set has no such form."""


def check_settings(limit: int | None, subset_seed: int | None, max_new_tokens: int, stop_strings: Sequence[str]) -> tuple[str, ...]:
    """Raises UserError for settings that no data set can have; gives the stop strings as a tuple."""
    if limit is not None and not _is_count(limit):
        raise UserError(f"dataset.limit={limit} is not a number of examples: give 1 or more, or null for all.")
    if not _is_count(max_new_tokens):
        raise UserError(f"max_new_tokens={max_new_tokens} is not a number of tokens: give 1 or more.")
    if subset_seed is not None and (isinstance(subset_seed, bool) or not isinstance(subset_seed, int)):
        raise UserError(f"dataset.subset_seed={subset_seed} is not a seed: give a whole number, or null for the first examples.")
    if isinstance(stop_strings, str) or not all(isinstance(stop, str) and stop for stop in stop_strings):
        raise UserError(f"dataset.stop_strings={stop_strings!r} is not a list of texts that are not empty: give one, or [] for none.")
    return tuple(whole(stop, "dataset.stop_strings") for stop in stop_strings)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def subset(examples: Sequence[E], limit: int | None, seed: int | None) -> list[E]:
    """The first `limit` examples, or with a seed a random choice of as many, in the data set's order. Raises UserError for ids that occur
    twice.
    """
    seen = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"the data set has two examples with the id {example.id!r}: give each its own.")
        seen.add(example.id)
    if limit is None or limit >= len(examples):
        return list(examples)
    if seed is None:
        return list(examples[:limit])
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), limit))]


RAW, CHAT = "raw", "chat"
FORMATS = (RAW, CHAT)

@dataclass(frozen=True)
class Form:
    """prompt_format: raw or chat. system_prompt: in chat, the message before all others; None for none."""

    prompt_format: str = RAW
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_format not in FORMATS:
            raise UserError(f"dataset.prompt_format={self.prompt_format} is unknown: choose one of {', '.join(FORMATS)}.")
        if self.system_prompt is not None and self.prompt_format == RAW:
            raise UserError("dataset.system_prompt goes with dataset.prompt_format=chat only: a raw prompt has no messages; leave it out.")

    def stop_strings(self, given: Sequence[str] | None, of_raw: Sequence[str]) -> Sequence[str]:
        """Those that were given; else, of raw prompts, the usual ones, and in chat none, since an answer ends with the model's turn."""
        return given if given is not None else of_raw if self.prompt_format == RAW else ()

    def asked(self, examples: Sequence[E], words: Callable[[E], str] = attrgetter("prompt")) -> list[E]:
        """The examples as this format asks them: in chat with messages, which are the example's own or one user message with its `words`.

        Raises UserError for messages that are to be raw, and for a second system prompt.
        """
        if self.prompt_format == CHAT:
            return [replace(example, messages=self._messages(example, words)) for example in examples]
        if odd := next((example for example in examples if example.messages), None):
            raise UserError(f"{odd.id} consists of messages, which only chat templates make prompts of: set dataset.prompt_format=chat.")
        return list(examples)

    def _messages(self, example: E, words: Callable[[E], str]) -> tuple[Message, ...]:
        messages = example.messages or ({"role": "user", "content": words(example)},)
        if self.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise UserError(f"{example.id} has a system prompt of its own: leave out dataset.system_prompt, or that message.")
        return ({"role": "system", "content": self.system_prompt}, *messages)


def read_messages(row: Mapping, where: str) -> tuple[Message, ...]:
    """The messages of a row, {"messages": [{"role": ..., "content": ...}, ...]}. Raises UserError for a row of another form, and for a
    conversation that does not leave the next turn to the model.
    """
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where} has no list of messages under 'messages': give at least one {{role, content}}.")
    for message in messages:
        fits = isinstance(message, dict) and set(message) == {"role", "content"}
        if not fits or not all(isinstance(text, str) for text in message.values()):
            told = json.dumps(message, default=str)[:60]
            raise UserError(f"{where} has the message {told}: give each a role and a content, both texts, and nothing else.")
        whole(message["content"], f"{where}, a message")
        whole(message["role"] + message["content"], f"{where}, 'messages'")
    if messages[-1]["role"] == "assistant":
        raise UserError(f"{where} ends with an answer of the assistant, so nothing is asked: leave that last message out.")
    return tuple(messages)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for records of servers, which render it themselves."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
