"""What the server offers, apart from HTTP: it checks requests, decodes them and counts what was done. The server's settings (`server` in
conf/serve.yaml) are here too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from specexp.decoding.decoder import Decoder
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError, whole
from specexp.figures.acceptance import acceptance_figures
from specexp.live.engine import Answer, Engine, Request
from specexp.serve.protocol import ChatRequest, Generate

FINISH = {"eos": "stop", "stop": "stop", "length": "length", "cancelled": "stop"}
FIGURES = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens", "draft_acceptance_rate", "mean_acceptance_length")


@dataclass
class Service:
    """model: the name that requests use. usual, max_tokens: the sampling rule and the length for requests that leave them out."""

    engine: Engine
    decoder: Decoder
    model: str
    method: str
    usual: Sampling
    max_tokens: int
    ignore_eos: bool = False
    seed: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    _numbers: count = field(default_factory=count, repr=False)

    def request(self, asked: Generate) -> Request:
        """UserError for a request that does not fit the models or the method."""
        self._check_drawing(asked)
        prompt = self._prompt(asked)
        longest = asked.most_tokens or self._room(len(prompt))
        seed = (self.seed, "request", next(self._numbers)) if asked.seed is None else (asked.seed,)
        stops = tuple(whole(stop, "stop") for stop in asked.stops)
        request = Request(prompt, longest, asked.sampling(self.usual), seed, stops, self.ignore_eos or bool(asked.ignore_eos))
        self.engine.check(request)
        self.decoder.check(request.sampling)
        return request

    def decode(self, request: Request, hear: Callable[[str, int], None], cancelled: Callable[[], bool]) -> Answer:
        """The answer to a request; called in the decoder's thread. hear: is told the text and the number of tokens of each round."""
        hear_round = lambda round_, pieces: hear("".join(piece.text for piece in pieces), len(round_.tokens))
        return self.engine.answer(self.decoder, request, hear_round, cancelled)

    def speculation(self, answer: Answer) -> dict[str, object]:
        """How the text of this one request was made: counts, and the ratios of these counts."""
        side = answer.side()
        found = acceptance_figures([side])
        return {"method": self.method, "target_forwards": side.target_forwards} | {key: found[key] for key in FIGURES}

    def _check_drawing(self, asked: Generate) -> None:
        if not self.decoder.follows_sampling and (given := asked.drawing):
            field, value = next(iter(given.items()))
            raise UserError(
                f"method={self.method} draws no tokens, so {field}={value} has no meaning here; leave it out, or send temperature=0."
            )

    def _prompt(self, asked: Generate) -> list[int]:
        if isinstance(asked, ChatRequest):
            return self.engine.render([message.plain() for message in asked.messages])
        prompt = asked.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            [prompt] = prompt
        return self.engine.ids(prompt) if isinstance(prompt, str) else self.engine.known_ids(prompt)

    def _room(self, prompt: int) -> int:
        """max_tokens of a request that leaves it out: the usual number, or as many as fit."""
        longest = self.engine.longest_text
        return self.max_tokens if longest is None else max(1, min(self.max_tokens, longest - prompt))


def usage(request: Request, answer: Answer) -> dict[str, int]:
    """Counts of ids; the one that ended the text is among them."""
    return usage_of(request, len(answer.generation.token_ids))


def usage_of(request: Request, completion: int) -> dict[str, int]:
    return {"prompt_tokens": len(request.prompt), "completion_tokens": completion, "total_tokens": len(request.prompt) + completion}


LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """model: the name that requests use. queue: how many requests may wait; further ones get 429. body_bytes: the size that a request may
    have; larger ones get 413. api_key_env: the environment variable that holds the key which requests must bring; if it is not set, none is
    asked for. grace_seconds: how long the running request may go on after a signal to stop.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 64
    body_bytes: int = 2**20
    api_key_env: str = "SPECEXP_API_KEY"
    grace_seconds: int = 10

    def __post_init__(self) -> None:
        for key, least in (("port", 0), ("queue", 1), ("body_bytes", 1), ("grace_seconds", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"server.{key}={getattr(self, key)} does not fit; give {least} or more.")
        if self.port > 65535:
            raise ValueError(f"server.port={self.port} is no port; give 65535 or less, 0 for any free one.")

    @property
    def api_key(self) -> str | None:
        """Read from the environment each time, so that it is in no record and in no configuration."""
        return os.environ.get(self.api_key_env, "").strip() or None  # no header can hold a line end, which a file's content may have

    @property
    def is_open(self) -> bool:
        """Whether anyone who reaches this machine may use the server."""
        return self.api_key is None and self.host not in LOCAL
