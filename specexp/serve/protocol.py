"""What goes over the wire: the requests that the server understands, and OpenAI's objects around the text of an answer, whole or in chunks.

Fields have the names of OpenAI's API, and top_k and ignore_eos are as in vLLM. A field that asks for something the server cannot do is
refused and never ignored; such a field is accepted only with the value that changes nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from specexp.decoding.sampling import Sampling

Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[int, Field(ge=1, le=1)]
Tokens = Annotated[int, Field(ge=1)]
StopString = Annotated[str, Field(min_length=1)]
MOST_STOPS = 16


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(Strict):
    """continuous_usage_stats: as vLLM's, the usage so far with every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Generate(Strict):
    """The fields that both kinds of completion share. For a field that is left out or null, the server's own default holds."""

    model: str | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None  # 0, -1: all
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # requests of one user wait for each other, not for those of others
    n: One | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict, Field(max_length=0)] | None = None
    logprobs: Literal[False, 0] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def streaming(self) -> StreamOptions:
        return self.stream_options or StreamOptions()

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def drawing(self) -> dict[str, float]:
        """The fields that say how tokens are drawn, without those whose value means nothing; at temperature 0 none means anything."""
        if self.temperature == 0:
            return {}
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "seed": self.seed}
        nothing = {"top_p": (1,), "top_k": (0, -1)}
        return {field: value for field, value in given.items() if value is not None and value not in nothing.get(field, ())}

    def sampling(self, usual: Sampling) -> Sampling:
        """The server's own sampling rule, changed where the request says so."""
        temperature = usual.temperature if self.temperature is None else self.temperature
        top_p = usual.top_p if self.top_p is None else self.top_p
        top_k = usual.top_k if self.top_k is None else self.top_k
        return Sampling(temperature, top_k if top_k and top_k > 0 else None, top_p if temperature else None) if temperature else Sampling()


class CompletionRequest(Generate):
    """prompt: a text, or ids."""

    prompt: str | list[int] | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: One | None = None


class Part(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    role: str
    content: str | list[Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(Generate):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class PredictRequest(Strict):
    """The earlier study's form: a prompt, which is answered with a JSON string."""

    prompt: str


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
