"""The experiment: every prompt is answered by the method and by the baseline(s), which take turns; the answers are scored and given as
records.

This module knows sides and data sets through their interfaces. It knows nothing of Hydra, of files, and of how any side works.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from specexp.decoding.protocols import Cut, Stop
from specexp.errors import UserError
from specexp.experiment.generation import Generation
from specexp.experiment.sides import WARMUP_TOKENS, Failure, Prompt, Side, answers
from specexp.figures.record import Record, SideRecord
from specexp.peers.endpoint import Refused, Reply

QUICK_EXAMPLES = 8

BLOCK = 4  # rounds of all concurrent requests, per side and turn


class Reader(Protocol):
    """Turns examples into what the sides are asked, and their answers into fields of a record."""

    stop: Stop

    def prompts(self, examples: Sequence) -> dict[str, Prompt]:
        """The prompts by example, in the form that the sides take. Raises UserError for one that does not fit."""

    def seen(self, example: object) -> str:
        """The prompt as text, as the model sees it."""

    def read(self, example: object, prompt: Prompt, answer: Generation | Reply) -> dict[str, object]:
        """The fields of a SideRecord that are worked out after the clocks have stopped: text, score, likelihood."""

    def check(self, prompt: Prompt) -> None:
        """Raises UserError for models whose numbers on this prompt are not finite."""


@dataclass(frozen=True)
class Task:
    example: object
    sample: int
    prompt: Prompt
    seed: tuple


@dataclass
class Experiment:
    """sides: "method" and "baseline" (further ones are called "baseline_NAME").

    weights: "real" or "standin", for the records, since the text of a stand-in is that of a tiny model. stop_at_failure: one refused
    request ends the run; otherwise it is left out, and noted in `failures`.
    """

    sides: dict[str, Side]
    reader: Reader
    max_new_tokens: int
    samples: int = 1
    repeats: int = 1
    warmup: int = 2
    seed: int = 0
    weights: str = "real"
    stop_at_failure: bool = True
    failures: list[Failure] = field(default_factory=list)

    def warm_up(self, prompts: Sequence[Prompt]) -> None:
        """Lets every side decode real shapes once, so that no first call is timed. The longest prompt, which fixes the sizes of all
        buffers, comes first.
        """
        for index, prompt in enumerate(sorted(prompts, key=len, reverse=True)[: self.warmup]):
            for side in self.sides.values():
                [answer] = answers(side, [(prompt, ("warmup", index))], side.warmup_tokens(self.max_new_tokens), _briefly)
                if isinstance(answer, Refused) and self.stop_at_failure:
                    raise answer.told("")


    def records(self, examples: Sequence, prompts: Mapping[str, Prompt], done: set[tuple[str, int]]) -> Iterator[Record]:
        """One record per example and sample, in order, without those already done and those that were refused."""
        tasks = [
            Task(example, sample, prompts[example.id], (self.seed, example.id, sample))
            for example in examples
            for sample in range(self.samples)
        ]
        orders = self._orders()
        for start in range(0, len(tasks), self._block_size(len(tasks))):
            names = next(orders)
            block = [task for task in tasks[start : start + self._block_size(len(tasks))] if (task.example.id, task.sample) not in done]
            if block:
                yield from self._block(block, names)

    def _block_size(self, tasks: int) -> int:
        """How many prompts a side decodes before the next side's turn: one where requests go one at a time, a block of them where several
        are under way. A side that is alone need not stop for another.
        """
        concurrency = max(side.concurrency for side in self.sides.values())
        return 1 if concurrency == 1 else BLOCK * concurrency if len(self.sides) > 1 else max(1, tasks)

    def _orders(self) -> Iterator[list[str]]:
        """The order of the sides in each block, whatever was done before: a seeded shuffle, and then the same backwards, so that every
        side is first, last and between as often as every other.
        """
        draws, names = random.Random(self.seed), sorted(self.sides)
        while True:
            order = draws.sample(names, len(names))
            yield order
            yield order[::-1]

    def _block(self, block: Sequence[Task], names: list[str]) -> Iterator[Record]:
        """Decodes all repeats of all sides before anything is scored, so that nothing is scored while a side is timed. The answers of a
        side that is alone are recorded as they come.
        """
        passes = [(repeat, name) for repeat in range(self.repeats) for name in (names if repeat % 2 == 0 else names[::-1])]
        asked = [(task.prompt, task.seed) for task in block]
        heard = [answers(self.sides[name], asked, self.max_new_tokens, self.reader.stop) for _, name in passes]
        if len(passes) > 1:  # one after the other, and nothing is scored while a side is still being timed
            heard = [list(stream) for stream in heard]
        for task, *given in zip(block, *heard, strict=True):
            by_side = {name: [answer for (_, one), answer in zip(passes, given, strict=True) if one == name] for name in names}
            if not self._refused(task, by_side):
                yield self._record(task, names, by_side)

    def _refused(self, task: Task, by_side: Mapping[str, list]) -> bool:
        """Whether a side was refused this text. Raises UserError where that ends the run."""
        found = [(name, answer) for name, given in by_side.items() for answer in given if isinstance(answer, Refused)]
        for name, error in found[:1]:
            if self.stop_at_failure:
                raise error.told(f" to {task.example.id}")
            self.failures.append(Failure(name, task.example.id, error.code, error.message))
        return bool(found)

    def _record(self, task: Task, names: list[str], by_side: Mapping[str, list]) -> Record:
        sides = {name: self._side(task, name, by_side[name]) for name in sorted(by_side)}
        return Record(task.example.id, task.sample, self.reader.seen(task.example), names, sides, self.weights)

    def _side(self, task: Task, name: str, repeats: list) -> SideRecord:
        """The record of a side: counts of the first repeat, times of all. Everything untimed happens here, after the clocks have stopped.
        """
        first = repeats[0].record()
        agree = all(again.content == repeats[0].content for again in repeats)
        times = tuple(each.repeat() for each in repeats)
        read = self.reader.read(task.example, task.prompt, repeats[0])
        return replace(first, repeats=times, repeats_agree=agree, **self.sides[name].facts(), **read)


def quality_figures(dataset, records: Sequence[Record]) -> dict[str, float]:
    """The data set's metrics for the method, and as baseline_... for each baseline."""
    figures: dict[str, float] = {}
    for side in records[0].sides:
        by_example: dict[str, list] = {}
        for record in records:
            by_example.setdefault(record.id, []).append(record.sides[side].score)
        prefix = "" if side == "method" else f"{side}_"
        figures |= {prefix + key: value for key, value in dataset.metrics(list(by_example.values())).items()}
    return figures


def no_answer(failures: Sequence[Failure], address: str) -> UserError:
    """The error for a run in which every request failed."""
    first = failures[0]
    told = f"to {address}, with {first.code} ({first.message.rstrip('.')})"
    return UserError(f"no prompt was answered: {len(failures)} requests failed, the first, {told}.")


def _briefly(ids: Sequence[int], since: int) -> Cut | None:
    """A stop that ends a warm-up early. The buffers are still made for a whole text, since what is made later would be timed."""
    return Cut(len(ids), "stop") if len(ids) >= WARMUP_TOKENS else None
