"""The requests that the server understands.

Fields have the names of OpenAI's API, and top_k and ignore_eos are as in vLLM. A field that asks for something the server cannot do is
refused and never ignored; such a field is accepted only with a value that changes nothing. There are many of these, since clients and
benchmarks send the defaults of their own; a name that stands here nowhere is refused whatever its value, as it may be misspelt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError, whole


def _neutral(values: tuple[object, ...], value: object) -> object:
    if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values):
        raise ValueError(f"this server does not do that; leave it out, or send {' or '.join(map(json.dumps, values))}")
    return value


def only(*values: object) -> Any:
    """The type of a field that asks for nothing with one of these values, or null, and is refused with any other."""
    return Annotated[Any, AfterValidator(partial(_neutral, (*values, None)))]


Tokens = Annotated[int, Field(ge=1)]
StopString = Annotated[str, Field(min_length=1)]
MOST_STOPS = 16


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    """(dotted field, text) of all texts in a body, the names of its fields among them."""
    if isinstance(value, str):
        yield path or "the body", value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield path or "the body", str(key)
        yield from _texts(inner, f"{path}.{key}".lstrip("."))


class StreamOptions(Strict):
    """continuous_usage_stats: as vLLM's, the usage so far with every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: only(False) = None


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
    safety_identifier: str | None = None  # OpenAI's newer name of the same
    # what OpenAI's API has besides
    n: only(1) = None
    frequency_penalty: only(0) = None
    presence_penalty: only(0) = None
    logit_bias: only({}) = None
    logprobs: only(False, 0) = None
    metadata: only({}) = None
    service_tier: only("auto", "default") = None
    prompt_cache_key: only("") = None
    prompt_cache_retention: only() = None
    prompt_cache_options: only({}) = None
    # what vLLM and others have besides
    best_of: only(1) = None
    repetition_penalty: only(1) = None
    repeat_penalty: only(1) = None
    length_penalty: only(1) = None
    min_p: only(0) = None
    typical_p: only(1) = None
    min_tokens: only(0) = None
    use_beam_search: only(False) = None
    early_stopping: only(False) = None
    stop_token_ids: only([]) = None
    bad_words: only([]) = None
    include_stop_str_in_output: only(False) = None
    skip_special_tokens: only(True) = None
    spaces_between_special_tokens: only(True) = None  # there are none
    prompt_logprobs: only(0, False) = None
    truncate_prompt_tokens: only() = None
    priority: only(0) = None
    allowed_token_ids: only([]) = None
    structured_outputs: only() = None
    guided_json: only() = None
    guided_regex: only("") = None
    guided_choice: only([]) = None
    guided_grammar: only("") = None
    regex: only("") = None
    response_format: only({"type": "text"}) = None
    logits_processors: only([]) = None
    return_token_ids: only(False) = None
    return_tokens_as_token_ids: only(False) = None

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, body: object) -> object:
        for field, text in _texts(body, ""):
            try:
                whole(text, field)
            except UserError as error:
                raise PydanticCustomError("half_a_character", "{sentence}", {"sentence": str(error), "field": field}) from error
        return body

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
    """prompt: a text or ids, or a list with one of them."""

    prompt: str | list[int] | Annotated[list[str] | list[list[int]], Field(min_length=1, max_length=1)]
    echo: only(False) = None
    suffix: only("") = None
    add_special_tokens: only(True) = None


class Part(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    """A message as a client writes it, or as a server gave it, with the fields that such an answer has besides."""

    role: str
    content: str | list[Part]
    name: str | None = None
    refusal: only("") = None
    annotations: only([]) = None
    audio: only() = None
    function_call: only() = None
    tool_calls: only([]) = None
    reasoning: only("") = None
    reasoning_content: only("") = None

    def plain(self) -> dict[str, str]:
        """What a chat template is given."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({} if self.name is None else {"name": self.name})


class ChatRequest(Generate):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    # what OpenAI's API has besides
    tools: only([]) = None
    tool_choice: only("none", "auto") = None
    parallel_tool_calls: only(True, False) = None  # of no tools
    functions: only([]) = None
    function_call: only("none", "auto") = None
    top_logprobs: only(0) = None
    store: only(False) = None
    moderation: only() = None
    modalities: only(["text"]) = None
    audio: only() = None
    prediction: only() = None
    reasoning_effort: only("none") = None
    verbosity: only("medium") = None
    web_search_options: only() = None
    # what vLLM and others have besides
    echo: only(False) = None
    add_generation_prompt: only(True) = None
    continue_final_message: only(False) = None
    add_special_tokens: only(False) = None  # a chat template writes its own
    documents: only([]) = None
    chat_template: only() = None
    chat_template_kwargs: only({}) = None
    include_reasoning: only(True) = None
    separate_reasoning: only(True, False) = None  # of no reasoning

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class PredictRequest(Strict):
    """The earlier study's form: a prompt, which is answered with a JSON string."""

    prompt: str
