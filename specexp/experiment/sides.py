"""A side is whatever answers a prompt while it is timed: our decoder, another maker's loop over the same weights, or a served endpoint.

One experiment runs any of them. Knows neither data sets nor files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Sampling
from specexp.experiment.generation import Generation, generate
from specexp.peers.endpoint import Endpoint, Refused, Reply

Prompt = Sequence[int] | str  # ids for our own models, a text for a server's


@dataclass(frozen=True)
class Failure:
    """A request that was refused for good. side: of whom it was asked."""

    side: str
    example: str
    code: int
    message: str


class Side(Protocol):
    """concurrency: prompts that it answers at once."""

    concurrency: int
    lossless: bool | None

    def generate(self, prompt: Prompt, max_new_tokens: int, stop: Stop, seed: tuple) -> Generation | Reply:
        """One text, timed. Raises Refused where a server did not answer as asked."""

    def facts(self) -> dict[str, object]:
        """What is true of it in this run, for the record: lossless and cache_exact."""

    def close(self) -> None:
        """Let go of what it holds."""


@dataclass
class DecoderSide:
    """decoder: our loop, or a peer's, over weights that are in this process."""

    decoder: Decoder
    sampling: Sampling
    concurrency: int = field(default=1, init=False)

    @property
    def lossless(self) -> bool:
        return self.decoder.lossless

    def generate(self, prompt: Prompt, max_new_tokens: int, stop: Stop, seed: tuple) -> Generation:
        return generate(self.decoder, prompt, max_new_tokens, stop, self.sampling, seed)

    def facts(self) -> dict[str, object]:
        return {"lossless": self.decoder.lossless, "cache_exact": self.decoder.target.facts.cache_exact}

    def close(self) -> None:
        """The weights belong to all sides."""


@dataclass
class ServedSide:
    """endpoint: a server. stop_strings: where it is asked to end; a text that goes past one all the same is cut by who reads it."""

    endpoint: Endpoint
    sampling: Sampling
    stop_strings: Sequence[str] = ()
    ignore_eos: bool = False
    lossless: bool | None = field(default=None, init=False)

    @property
    def concurrency(self) -> int:
        return self.endpoint.concurrency

    def generate(self, prompt: Prompt, max_new_tokens: int, stop: Stop, seed: tuple) -> Reply:
        """`stop` is not asked: a server is told its stop strings."""
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
    """Of each (prompt, seed), in their order, as many at once as the side takes; a refusal stands in the place of its answer."""
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
