"""OpenAI's objects around the text of an answer, whole or in chunks. What is asked and how it is decoded is not known here."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


class Form(Protocol):
    """How OpenAI's objects look for one kind of completion."""

    def whole(self, text: str, finish: str) -> dict:
        """The one object of an answer that does not stream."""

    def opening(self) -> Iterator[dict]:
        """The chunks before any text."""

    def delta(self, text: str) -> dict:
        """A chunk of text."""

    def end(self, finish: str) -> dict:
        """The chunk that tells how the text ended."""

    def without_choice(self) -> dict:
        """The chunk that tells the usage."""


@dataclass(frozen=True)
class _Envelope:
    model: str
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def _object(self, prefix: str, kind: str, *choices: dict) -> dict:
        numbered = [{"index": index, "logprobs": None, **choice} for index, choice in enumerate(choices)]
        return {"id": f"{prefix}-{self.number}", "object": kind, "created": self.created, "model": self.model, "choices": numbered}


class CompletionForm(_Envelope):
    def _choices(self, *choices: dict) -> dict:
        return self._object("cmpl", "text_completion", *choices)

    def whole(self, text: str, finish: str) -> dict:
        return self._choices({"text": text, "finish_reason": finish})

    def opening(self) -> Iterator[dict]:
        return iter(())

    def delta(self, text: str) -> dict:
        return self._choices({"text": text, "finish_reason": None})

    def end(self, finish: str) -> dict:
        return self._choices({"text": "", "finish_reason": finish})

    def without_choice(self) -> dict:
        return self._choices()


class ChatForm(_Envelope):
    def _chunk(self, *choices: dict) -> dict:
        return self._object("chatcmpl", "chat.completion.chunk", *choices)

    def whole(self, text: str, finish: str) -> dict:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        return self._object("chatcmpl", "chat.completion", choice)

    def opening(self) -> Iterator[dict]:
        yield self._chunk({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def delta(self, text: str) -> dict:
        return self._chunk({"delta": {"content": text}, "finish_reason": None})

    def end(self, finish: str) -> dict:
        return self._chunk({"delta": {}, "finish_reason": finish})

    def without_choice(self) -> dict:
        return self._chunk()
