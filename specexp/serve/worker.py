"""The one decoder's thread, and the jobs that wait for it. Everything but the decoding itself happens on the event loop.

A job that nobody waits for any more ends at its next round, or never begins. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from time import perf_counter

from specexp.decoding.sampling import Sampling
from specexp.engine import Answer, Request
from specexp.errors import UserError
from specexp.serve.fair_queue import FairQueue

logger = logging.getLogger(__name__)


class Closed(Exception):
    """The server is stopping."""


@dataclass(eq=False)
class Job:
    """begun: the first round is there, or it failed. ended: there is an answer, or an error and no answer."""

    client: str
    request: Request
    sampling: Sampling
    arrived: float = field(default_factory=perf_counter)
    cancelled: Event = field(default_factory=Event)
    pieces: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Answer | None = None
    error: BaseException | None = None
    waited_seconds: float | None = None

    def hear(self, text: str) -> None:
        self.begun.set()
        self.pieces.put_nowait(text)

    def end(self, answer: Answer | None, error: BaseException | None = None) -> None:
        self.answer, self.error = answer, error
        self.begun.set()
        self.ended.set()
        self.pieces.put_nowait(None)

    async def text(self) -> AsyncIterator[str]:
        """Pieces of text until the end."""
        while (piece := await self.pieces.get()) is not None:
            if piece:
                yield piece


Decode = Callable[[Request, Sampling, Callable[[str], None], Callable[[], bool]], Answer]


class Worker:
    """decode: (request, sampling, hear text, cancelled) -> answer, called in the one thread. finished: told every job that ran."""

    def __init__(self, decode: Decode, limit: int, finished: Callable[[Job], None]):
        self._decode, self._finished = decode, finished
        self._queue: FairQueue[Job] = FairQueue(limit)
        self._arrival = asyncio.Event()
        self.running: Job | None = None
        self.closed = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def submit(self, job: Job) -> None:
        """Raises Full or Closed."""
        if self.closed:
            raise Closed
        self._queue.put(job.client, job)
        self._arrival.set()

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more."""
        job.cancelled.set()
        self._queue.drop(job.client, job)

    def close(self, grace_seconds: float = 0) -> None:
        """Refuse what comes and what waits; the running job may go on for so long."""
        self.closed = True
        while self.waiting:
            self._queue.take().end(None, Closed())
        asyncio.get_running_loop().call_later(grace_seconds, self._cut_short)

    def _cut_short(self) -> None:
        if self.running is not None:
            self.running.cancelled.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        with ThreadPoolExecutor(1, "decoder") as thread:
            try:
                while True:
                    while not self.waiting:
                        self._arrival.clear()
                        await self._arrival.wait()
                    self.running = self._queue.take()
                    await self._work(self.running, thread)
                    self.running = None
            finally:
                self.close()
                self._cut_short()

    async def _work(self, job: Job, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        job.waited_seconds = perf_counter() - job.arrived

        def hear(text: str) -> None:
            loop.call_soon_threadsafe(job.hear, text)

        future = loop.run_in_executor(thread, self._decode, job.request, job.sampling, hear, job.cancelled.is_set)
        await asyncio.wait([future])
        error = future.exception()
        if error is not None and not isinstance(error, UserError):
            logger.error("a request failed", exc_info=error)
        if error is None and self.closed and job.cancelled.is_set():
            error = Closed()  # a text that we cut short is no answer
        job.end(None if error else future.result(), error)
        self._finished(job)
