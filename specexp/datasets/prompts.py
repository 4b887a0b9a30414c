"""Prompts to compare speed with, whose texts are not scored: a user's own; texts, code, conversations and questions from public data sets
(WikiText-2, C4, The Stack, ShareGPT, ...); and prompts of random lengths for load tests.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

from specexp.assets import asset_path
from specexp.datasets import RAW, Example, Form, Score, check_settings, read_messages, subset
from specexp.datasets.files import Source, TextFile, check_row, id_of, jsonl_rows, read_lines, text_at
from specexp.errors import UserError


class Prompts:
    """A user's own prompts. path: jsonl with `id` and `prompt`, or `id` and `messages`, or, with any other ending, a text with one prompt
    a line. prompt_format, system_prompt: as in `Form`.
    """

    def __init__(self, path: str | None = None, limit: int | None = None, subset_seed: int | None = None, max_new_tokens: int = 128,
                 stop_strings: tuple[str, ...] = (), name: str = "prompts", prompt_format: str = RAW, system_prompt: str | None = None):
        if path is None:
            raise UserError("dataset=prompts needs a file: add dataset.path=FILE (jsonl with id and prompt, or one prompt a line).")
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, stop_strings)
        self.limit, self.subset_seed, self.max_new_tokens = limit, subset_seed, max_new_tokens
        self.path, self.name, self.form = path, name, Form(prompt_format, system_prompt)

    def examples(self) -> list[Example]:
        path = asset_path(self.path)
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            found = [_own(row, where) for where, row in jsonl_rows(path)]
        else:
            found = [Example(f"{self.name}/{number}", line) for number, line in read_lines(path)]
        return self.form.asked(subset(found, self.limit, self.subset_seed))

    def score(self, example: Example, text: str) -> Score:
        return {}

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        return {}

    def sample_line(self, example: Example, text: str) -> None:
        return None


def _own(row: object, where: str) -> Example:
    """The example of one line: a prompt, or messages. Raises UserError for a line that has both, or neither."""
    if not isinstance(row, dict) or "messages" not in row:
        row = check_row(row, ("id", "prompt"), where)
        return Example(row["id"], row["prompt"])
    if "prompt" in row:
        raise UserError(f"{where} has both a prompt and messages: leave one of them out.")
    messages = read_messages(check_row(row, ("id",), where), where)
    return Example(row["id"], messages[-1]["content"], messages=messages)


class PublicPrompts:
    """The text under `key` (dotted) of each row that has at least `min_words` words, cut after `max_words` (None: not cut).

    id_key: the column that holds a row's id; None for the row's number. path, hub_id and the like: as in `Source`.
    """

    def __init__(self, name: str, key: str, hub_id: str, limit: int | None = None, subset_seed: int | None = None,
                 max_new_tokens: int = 128, stop_strings: tuple[str, ...] = (), path: str | None = None, revision: str = "main",
                 split: str = "test", subset: str | None = None, id_key: str | None = None, min_words: int = 1,
                 max_words: int | None = None, files: str | None = None, prompt_format: str = RAW, system_prompt: str | None = None):
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, stop_strings)
        if min_words < 1 or (max_words is not None and max_words < min_words):
            raise UserError(f"dataset.min_words={min_words} and max_words={max_words} leave no prompt: give 1 <= min_words <= max_words.")
        self.limit, self.subset_seed, self.max_new_tokens, self.name = limit, subset_seed, max_new_tokens, name
        self.source = Source(path, hub_id, revision, split, subset, files)
        self.key, self.id_key, self.min_words, self.max_words = key, id_key, min_words, max_words
        self.form = Form(prompt_format, system_prompt)

    def examples(self) -> list[Example]:
        found = list(self._found())
        if not found:
            raise UserError(f"data set {self.name} has no text of {self.min_words} words under {self.key!r}: lower dataset.min_words.")
        return self.form.asked(subset(found, self.limit, self.subset_seed))

    def _found(self) -> Iterator[Example]:
        for number, row in enumerate(self.source.rows()):
            where = f"{self.source.path or self.source.hub_id} row {number + 1}"
            words = text_at(row, self.key, where).split(" ")
            if len([word for word in words if word.strip()]) >= self.min_words:
                name = f"{self.name}/{id_of(row[self.id_key], self.id_key, where) if self.id_key in row else number}"
                yield Example(name, " ".join(words[: self.max_words]).strip())

    def score(self, example: Example, text: str) -> Score:
        return {}

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        return {}

    def sample_line(self, example: Example, text: str) -> None:
        return None


TOKENS_PER_WORD = 4 / 3  # in English; the results hold the number that the server counted
INSTRUCTION = "Go on with lines of the following text in any order, in about {} tokens:\n\n"


class LoadPrompts:
    """`requests` prompts for load tests, after LLMPerf's protocol: an instruction, then lines of a text in random order.

    Their lengths are drawn, from `seed`, from a normal distribution with the given mean and deviation in tokens; none is shorter than the
    instruction. path: a text, or jsonl whose `key` holds texts, from which the lines are taken.
    """

    def __init__(self, requests: int = 64, mean_input_tokens: int = 550, stddev_input_tokens: int = 150, max_new_tokens: int = 150,
                 seed: int = 11111, path: str = "asset:microsum.jsonl", key: str = "document", name: str = "load",
                 prompt_format: str = RAW, system_prompt: str | None = None):
        self.stop_strings = check_settings(requests, seed, max_new_tokens, ())
        if mean_input_tokens < 1 or stddev_input_tokens < 0:
            raise UserError(f"dataset.mean_input_tokens={mean_input_tokens} and dataset.stddev_input_tokens={stddev_input_tokens} describe "
                            "no lengths: give 1 or more, and 0 or more.")
        self.requests, self.mean_input_tokens, self.stddev_input_tokens = requests, mean_input_tokens, stddev_input_tokens
        self.max_new_tokens, self.seed, self.path, self.key, self.name = max_new_tokens, seed, path, key, name
        self.form = Form(prompt_format, system_prompt)

    def examples(self) -> list[Example]:
        draws = random.Random(self.seed)
        lines = [line for line in TextFile(self.path, self.key, "\n").read().split("\n") if line.strip()]
        return self.form.asked([Example(f"{self.name}/{index}", self._prompt(lines, draws)) for index in range(self.requests)])

    def _prompt(self, lines: list[str], draws: random.Random) -> str:
        instruction = INSTRUCTION.format(self.max_new_tokens)
        words = draws.gauss(self.mean_input_tokens, self.stddev_input_tokens) / TOKENS_PER_WORD
        return instruction + _first_words(_endless(lines, draws), int(words) - len(instruction.split()))

    def score(self, example: Example, text: str) -> Score:
        return {}

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        return {}

    def sample_line(self, example: Example, text: str) -> None:
        return None


def _endless(lines: list[str], draws: random.Random) -> Iterator[str]:
    """The lines in random order, again and again."""
    return chain.from_iterable(iter(lambda: draws.sample(lines, len(lines)), None))


def _first_words(lines: Iterator[str], words: int) -> str:
    kept: list[str] = []
    while words > 0:
        found = next(lines).split()[:words]
        kept.append(" ".join(found))
        words -= len(found)
    return "\n".join(kept)
