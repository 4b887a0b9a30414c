"""How a data set asks its questions: raw, each prompt as it stands, or in chat, as messages that a chat template or a server renders.

This module knows neither tokenizers nor templates; specexp/text/prompting.py makes ids of what is asked here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TypeVar

from specexp.datasets import Example, Message
from specexp.errors import UserError, whole

RAW, CHAT = "raw", "chat"
FORMATS = (RAW, CHAT)

E = TypeVar("E", bound=Example)


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
        whole(message["role"] + message["content"], f"{where}, 'messages'")
    if messages[-1]["role"] == "assistant":
        raise UserError(f"{where} ends with an answer of the assistant, so nothing is asked: leave that last message out.")
    return tuple(messages)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for records of servers, which render it themselves."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
