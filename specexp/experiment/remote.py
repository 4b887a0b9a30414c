"""The experiment over served models: every prompt decoded by an endpoint, and by a second one as baseline, scored and recorded as ours are.

No pair is loaded. With concurrency 1 the two take turns prompt by prompt; with more, block by block, each in a closed loop of that many
requests. What a server does not tell (ids, rounds, passes, memory, likelihood) is null or empty in the record, never guessed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from specexp.datasets.prompts import LoadPrompts
from specexp.decoding.sampling import GREEDY, Sampling
from specexp.errors import UserError
from specexp.figures.acceptance import quotient
from specexp.peers.endpoint import Endpoint, Refused, Reply
from specexp.report import llmperf
from specexp.scoring.code import cut_at
from specexp.tracking.records import to_json, write_whole

BLOCK = 4  # rounds of all concurrent requests, per side and turn
WARMUP_TOKENS = 32


@dataclass(frozen=True)
class Failure:
    """A request that was refused for good. side: of whom it was asked."""

    side: str
    example: str
    code: int
    message: str


@dataclass(frozen=True)
class Task:
    example: object
    sample: int
    prompt: str


@dataclass
class RemoteExperiment:
    """sides: "method" and, if there is a second URL, "baseline". failures: of requests, where they are counted."""

    sides: dict[str, Endpoint]
    dataset: object
    max_new_tokens: int
    samples: int = 1
    repeats: int = 1
    warmup: int = 2
    seed: int = 0
    ignore_eos: bool = False
    sampling: Sampling = GREEDY
    weights: str = "real"
    failures: list[Failure] = field(default_factory=list)

    @property
    def _own(self) -> Endpoint:
        return self.sides["method"]

    def prompts(self, examples: Sequence) -> dict[str, str]:
        """Texts by example; whether they fit is the server's to say."""
        for example in examples:
            if not example.prompt:
                raise UserError(f"the prompt of {example.id} is empty; give at least one token.")
        return {example.id: example.prompt for example in examples}

    def connect(self) -> None:
        """UserError where a server cannot be used."""
        for endpoint in self.sides.values():
            endpoint.connect()

    def check_models(self, prompt: str) -> None:
        """A server's models are not seen from here."""

    def warm_up(self, prompts: Sequence[str]) -> None:
        """Every side answers briefly once or twice, so that no first request is timed."""
        for index, prompt in enumerate(prompts[: self.warmup]):
            for endpoint in self.sides.values():
                self._asked(endpoint, prompt, min(self.max_new_tokens, WARMUP_TOKENS), ("warmup", index))

    def records(self, examples: Sequence, prompts: dict[str, str], done: set[tuple[str, int]]) -> Iterator[dict]:
        """One record per example and sample that is not done and does not fail."""
        tasks = [Task(example, sample, prompts[example.id]) for example in examples for sample in range(self.samples)]
        tasks = [task for task in tasks if (task.example.id, task.sample) not in done]
        draws = random.Random(self.seed)
        with ThreadPoolExecutor(self._own.concurrency, "request") as pool:
            for block in self._blocks(tasks):
                names = sorted(self.sides)
                first, *others = names if draws.random() < 0.5 else names[::-1]
                before = {first: list(pool.map(partial(self._replies, first), block))} if others else {}
                last = others[0] if others else first
                answers = pool.map(partial(self._replies, last), block)
                answers = list(answers) if others else answers  # nothing is scored while a side that is compared is being timed
                for index, (task, replies) in enumerate(zip(block, answers, strict=True)):
                    sides = {name: found[index] for name, found in before.items()} | {last: replies}
                    if None not in sides.values():
                        yield self._record(task, sides)

    def facts(self) -> dict:
        """For environment.json: there is no machine of ours in it."""
        sides = {name: {"url": endpoint.url, "model": endpoint.served, "api": endpoint.api} for name, endpoint in self.sides.items()}
        level = getattr(getattr(self.dataset, "sandbox", None), "level", None)
        return {"endpoints": sides, "concurrency": self._own.concurrency, "sandbox": level}

    def figures(self, records: Sequence[dict]) -> dict:
        """The model that was served, and the requests that were refused for good; what only weights tell is null."""
        prefixes = {"method": "", "baseline": "baseline_"}
        errors = {f"{prefixes[name]}num_errors": sum(failure.side == name for failure in self.failures) for name in self.sides}
        return {"model_pair": self._own.served, "lossless": None, "cache_exact": None} | errors | speculation_figures(records)

    def conclude(self, records: Sequence[dict], directory: Path) -> None:
        """The files of a load test. UserError where every request failed."""
        if not records:
            first = self.failures[0]
            told = f"to {self.sides[first.side].url}, with {first.code} ({first.message.rstrip('.')})"
            raise UserError(f"no prompt was answered: {len(self.failures)} requests failed, the first, {told}.")
        if isinstance(self.dataset, LoadPrompts):
            self._write_llmperf(records, directory)

    def _write_llmperf(self, records: Sequence[dict], directory: Path) -> None:
        settings = {
            "model": self._own.served,
            "mean_input_tokens": self.dataset.mean_input_tokens,
            "stddev_input_tokens": self.dataset.stddev_input_tokens,
            "mean_output_tokens": self.max_new_tokens,
            "stddev_output_tokens": 0,  # every request asks for as many
            "num_concurrent_requests": self._own.concurrency,
            "additional_sampling_params": {"temperature": self.sampling.temperature},
        }
        errors = [llmperf.failed(failure.code, failure.message) for failure in self.failures if failure.side == "method"]
        requests = [*map(llmperf.individual, records), *errors]
        files = {"summary": llmperf.summary(records, errors, settings), "individual_responses": requests}
        for name, content in files.items():
            write_whole(directory / f"{llmperf.file_stem(settings)}_{name}.json", to_json(content, indent=4) + "\n")

    def _blocks(self, tasks: list[Task]) -> Iterator[list[Task]]:
        """One side alone need not stop for the other; one request at a time is never under way while a text is scored."""
        concurrency = self._own.concurrency
        size = 1 if concurrency == 1 else BLOCK * concurrency if len(self.sides) > 1 else max(1, len(tasks))
        return (tasks[start : start + size] for start in range(0, len(tasks), size))

    def _record(self, task: Task, replies: dict[str, list[Reply]]) -> dict:
        """replies: by side, in the order in which they were asked. Scores: in this thread alone, since scorers know no threads."""
        named = {"id": task.example.id, "sample": task.sample, "prompt": task.prompt, "weights": self.weights, "order": list(replies)}
        return named | {name: self._scored(task, found) for name, found in replies.items()}

    def _scored(self, task: Task, replies: list[Reply]) -> dict:
        text = cut_at(replies[0].text, self.dataset.stop_strings)  # also behind a server that keeps the stop string or knows only some
        return side(replies) | {"text": text, "score": self.dataset.score(task.example, text)}

    def _replies(self, name: str, task: Task) -> list[Reply] | None:
        """One for each repeat; None for a failure that is only counted."""
        endpoint, seed = self.sides[name], (self.seed, task.example.id, task.sample)
        try:
            return [self._complete(endpoint, task.prompt, self.max_new_tokens, seed) for _ in range(self.repeats)]
        except Refused as error:
            if endpoint.on_error == "stop":
                raise _refusal(endpoint, error, f" to {task.example.id}") from error
            self.failures.append(Failure(name, task.example.id, error.code, error.message))
            return None

    def _asked(self, endpoint: Endpoint, prompt: str, max_new_tokens: int, seed: tuple) -> None:
        try:
            self._complete(endpoint, prompt, max_new_tokens, seed)
        except Refused as error:
            if endpoint.on_error == "stop":
                raise _refusal(endpoint, error, "") from error

    def _complete(self, endpoint: Endpoint, prompt: str, max_new_tokens: int, seed: tuple) -> Reply:
        stop = () if self.ignore_eos else tuple(self.dataset.stop_strings)
        return endpoint.complete(prompt, max_new_tokens, stop, self.ignore_eos, self.sampling, seed_number(seed))


def side(replies: Sequence[Reply]) -> dict[str, object]:
    """A record's side: counts of the first reply, mean seconds of all. The first text counts as one token, as everywhere where chunks are
    all that is seen: TPOT = (e2e - TTFT) / (n - 1)."""
    first = replies[0]
    return {
        "token_ids": None,
        "num_tokens": first.completion_tokens,
        "prompt_tokens": first.prompt_tokens,
        "finish": first.finish,
        "ttft_seconds": sum(reply.ttft_seconds for reply in replies) / len(replies),
        "decode_seconds": sum(reply.decode_seconds for reply in replies) / len(replies),
        "first_tokens": 1,
        "chunks": first.chunks,
        "rounds": [],
        "origins": [],
        "entropies": None,
        "tree": None,
        "target_forwards": 0,
        "draft_forwards": 0,
        "draft_forwards_by_model": {},
        "target_seconds": None,
        "draft_seconds": None,
        "kv_bytes_target": None,
        "kv_bytes_draft": None,
        "peak_memory_bytes": None,
        "nll_sum": 0.0,
        "nll_count": 0,
        "lossless": None,
        "cache_exact": None,
        "repeats_agree": all(reply.text == first.text for reply in replies),
        "began": first.began,
        "attempts": first.attempts,
        "speculation": first.speculation,
    }


def speculation_figures(records: Sequence[dict]) -> dict[str, float | int | None]:
    """Acceptance as our own server told it of each request; nothing from servers that do not."""
    told = [record["method"]["speculation"] for record in records]
    if None in told:
        return {}
    steps, drafted, accepted = (sum(one[f"num_{key}"] for one in told) for key in ("spec_steps", "draft_tokens", "accepted_draft_tokens"))
    return {
        "served_method": told[0]["method"],
        "served_acceptance_rate": quotient(accepted, drafted),
        "served_acceptance_length": quotient(accepted + steps, steps),
    }


def seed_number(seed: tuple) -> int:
    """A whole number that any server takes, derived from (seed, example, sample)."""
    return int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:4], "big") >> 1


def _refusal(endpoint: Endpoint, error: Refused, where: str) -> UserError:
    told = error.message.rstrip(".")
    return UserError(f"{endpoint.url} answered{where} with {error.code} ({told}); method.on_error=count would go on without that request.")
