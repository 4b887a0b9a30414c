"""One answer of a served engine: its stream is read to the end, and times are those at which text arrived here.

A model may write on several channels: the answer, which is scored, and reasoning or calls of tools, which are clocked with it, as their
tokens are in the server's counts. What is no finished text is refused with the server's own words. This module knows the bodies of streams;
of connections, keys and requests it knows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import httpx

from specexp.figures.record import Repeat, SideRecord
from specexp.peers.connection import Refused, error_code, error_in, error_words, whole
from specexp.peers.reported import NOTHING, Speculation, tells_speculation, told_speculation, whole_number
from specexp.peers.streams import Event, EventStream, Piece, timed

KEPT = 65536  # bytes of a body that may turn out to be no stream
BROKEN_OFF = ("error", "abort")  # finish reasons of a text that the server did not finish
UNSPOKEN = ("role", "name", "type", "id", "signature")  # texts of a delta that are none of the model's
REASONING = ("reasoning_content", "reasoning", "thinking")  # what engines call the text before the answer
IN_PARTS = ("tool_calls", "function_call", "reasoning_details", "audio", *REASONING)  # channels that may hold no plain text


@dataclass(frozen=True)
class Reply:
    """One answer. times: seconds since the request was sent at which text arrived, and last the end of the text. began: seconds of the
    epoch.

    text: the answer itself. reasoning: what the model wrote on other channels; it is clocked, and its tokens are among the counts.
    completion_tokens, prompt_tokens: from `usage`. chunks: how many held text. first_tokens: tokens that came with the first text; all of
    them where the text came in one piece. speculation: what the server reports of its own.
    """

    text: str
    finish: str
    times: tuple[float, ...]
    chunks: int
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    began: float
    first_tokens: int = 1
    reasoning: str = ""
    speculation: Speculation = NOTHING

    @property
    def ttft_seconds(self) -> float:
        return self.times[0]

    @property
    def decode_seconds(self) -> float:
        """Seconds from the first text to the end; with `ttft_seconds` they add up to the latency of the whole request."""
        return self.times[-1] - self.times[0]

    @property
    def content(self) -> tuple[str, str]:
        """What two repeats are compared by."""
        return self.reasoning, self.text

    def repeat(self) -> Repeat:
        """The times. Texts that arrive together are one emission."""
        emissions = len(self.times) - 2 if self.first_tokens < self.completion_tokens else 0
        return Repeat(self.completion_tokens, self.first_tokens, max(emissions, 0), 0, self.ttft_seconds, self.decode_seconds)

    def record(self) -> SideRecord:
        """The record of this side. What a server does not report (ids, rounds, passes, memory, likelihood) stays unknown and is never
        guessed.
        """
        return SideRecord(
            repeats=(self.repeat(),),
            text=self.text,
            finish=self.finish,
            num_tokens=self.completion_tokens,
            prompt_tokens=self.prompt_tokens,
            rounds=self.speculation.rounds,
            chunks=self.chunks,
            began=self.began,
            attempts=self.attempts,
            reasoning=self.reasoning or None,
            speculation=self.speculation.to_json(),
        )


def read_reply(answer: httpx.Response, sent: float, began: float, attempts: int) -> Reply:
    """Reads a response with status 200 to its end. Raises Refused with the server's own words where it is no finished text."""
    reading, events, body, now = Reading(), EventStream(), bytearray(), 0.0
    for arrived in answer.iter_bytes():
        now = perf_counter() - sent
        if len(body) < KEPT:
            body += arrived
        for event in events.feed(arrived):
            reading.hear(event, now)
    for event in events.close():
        reading.hear(event, now)
    if not reading.heard:
        raise _no_stream(answer, body.decode("utf-8", "replace"))
    return reading.reply(began, attempts)


@dataclass
class Reading:
    """What a stream has told so far. heard: whether it held any event. ended: whether it said so. end: when the last choice arrived.

    reasoning_tokens: as the server counts them, shown or not. bad_usage: one that did not count. last_told: the chunk that last held counts
    of speculation.
    """

    heard: bool = False
    ended: bool = False
    finish: str = ""
    end: float = 0.0
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    usage: tuple[int, int] | None = None
    reasoning_tokens: int = 0
    bad_usage: object = None
    last_told: Mapping = field(default_factory=dict)

    def hear(self, event: Event, now: float) -> None:
        """Raises Refused for an error, and for what is neither JSON nor the end."""
        data = event.data.strip()
        if not data:
            return
        self.heard = True
        if data == "[DONE]":
            self.ended = True
            return
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            if event.name == "error":
                raise Refused(-1, data) from None
            if len(event.lines) < 2:
                raise Refused(-1, f"a chunk is not JSON: {data[:80]}") from None
            for line in event.lines:  # of a server that sends no empty lines between its events
                self.hear(Event((line,), event.name), now)
            return
        self._take(chunk, event.name, now)

    def _take(self, chunk: object, name: str, now: float) -> None:
        if (error := error_in(chunk, always=name == "error")) or name == "error":
            raise Refused(error_code(error), error_words(error))
        if not isinstance(chunk, dict):
            return
        counted = self._count(chunk.get("usage"))
        if tells_speculation(chunk):
            self.last_told = chunk
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choose(choice, counted, now)

    def _count(self, usage: object) -> int | None:
        """The tokens so far, where the chunk counts them."""
        if not isinstance(usage, dict) or not usage:
            return None
        counts = tuple(whole_number(usage.get(key)) for key in ("prompt_tokens", "completion_tokens"))
        if None in counts:
            self.bad_usage = usage
            return None
        details = usage.get("completion_tokens_details")
        self.reasoning_tokens = (whole_number(details.get("reasoning_tokens")) if isinstance(details, dict) else None) or 0
        self.usage = counts
        return counts[1]

    def _choose(self, choice: Mapping, counted: int | None, now: float) -> None:
        if error := error_in(choice, always=False):
            raise Refused(error_code(error), error_words(error))
        self.end = now
        reason = choice.get("finish_reason")
        self.finish = str((reason.get("type") if isinstance(reason, dict) else reason) or self.finish)
        spoken = spoken_in(choice)
        answer = spoken.pop("content", "")
        self.texts += [answer] if answer else []
        self.reasoning += next(([spoken[key]] for key in REASONING if key in spoken), [])
        if size := sum(len(text.encode("utf-8", "replace")) for text in (answer, *set(spoken.values()))):  # one text may have two names
            self.pieces.append(Piece(now, size, counted))

    def reply(self, began: float, attempts: int) -> Reply:
        """Raises Refused for a text that was not finished, and where tokens are not counted."""
        text, reasoning = whole(self.texts), whole(self.reasoning)
        if not self.finish:
            what = "the server sent [DONE] without a finish_reason" if self.ended else "the stream ended before the text did"
            raise Refused(-1, f"{what}, after {len(self.pieces)} chunks of text, so that it may not be whole")
        if self.finish.lower() in BROKEN_OFF:
            raise Refused(-1, f"the server broke the text off with finish_reason={self.finish}, after {len(self.pieces)} chunks of text")
        if self.usage is None:
            told = "" if self.bad_usage is None else f" with whole numbers of prompt_tokens and completion_tokens ({self.bad_usage})"
            raise Refused(-1, f"the server sends no usage{told}, from which tokens are counted")
        prompt, tokens = self.usage
        if tokens == 0 and self.pieces:
            raise Refused(-1, f"the server's usage counts 0 completion_tokens for a text of {len(self.pieces)} chunks")
        times, first = timed(self.pieces, tokens, 0 if reasoning else min(self.reasoning_tokens, tokens), self.end)
        speculation = told_speculation(self.last_told, tokens)
        return Reply(text, self.finish, times, len(self.pieces), prompt, tokens, attempts, began, first, reasoning, speculation)


def _no_stream(answer: httpx.Response, body: str) -> Refused:
    """For a reply with status 200 that held no event."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if error := error_in(content, always=False):
        return Refused(error_code(error), error_words(error))
    kind = answer.headers.get("content-type", "of no type")
    if not body.strip():
        return Refused(-1, f"the reply is empty ({kind})")
    return Refused(-1, f"the reply is no stream ({kind}), so nothing can be timed; it begins: {body[:120]}")


def spoken_in(choice: Mapping) -> dict[str, str]:
    """What the model says in a chunk, by channel; "content" is the answer. Channels on which it says nothing are left out."""
    delta = choice.get("delta") if isinstance(choice.get("delta"), dict) else {}
    parts = choice.get("text") or delta.get("content")
    parts = parts if isinstance(parts, list) else [parts]
    thoughts = [part for part in parts if isinstance(part, dict) and part.get("type") in REASONING]  # as Mistral sends them
    spoken = {"content": _plain([part for part in parts if part not in thoughts]), "thinking": _plain(thoughts)}
    spoken |= {key: _plain(choice.get(key)) for key in REASONING if key in choice}
    for key, value in delta.items():
        if key not in ("content", *UNSPOKEN) and (isinstance(value, str) or key in IN_PARTS):
            spoken[key] = _plain(value) or (json.dumps(value) if isinstance(value, (dict, list)) and value else "")  # a tool's call, say
    return {key: text for key, text in spoken.items() if text}


def _plain(value: object) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, list):
        return "".join(map(_plain, value))
    if isinstance(value, dict):
        return next((_plain(value[key]) for key in ("text", "thinking", "summary") if value.get(key)), "")
    return value if isinstance(value, str) else ""
