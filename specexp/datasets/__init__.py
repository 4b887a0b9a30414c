"""This room holds data sets: examples with their prompts, the score of one text, and the metrics of all. It knows no models and no
configuration.

What every data set is made of and offers: examples, scores and metrics. This module knows neither files nor kinds of scores.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from specexp.errors import UserError, whole

Score = dict[str, bool | float | str]
Message = Mapping[str, str]  # role, content


@dataclass(frozen=True)
class Example:
    """One task of a data set. `id` is unique in its data set, because records are found again by it. messages: the conversation that is
    asked in chat; empty where the prompt is asked as it stands.
    """

    id: str
    prompt: str
    messages: tuple[Message, ...] = field(default=(), kw_only=True)




class Dataset(Protocol):
    name: str
    stop_strings: tuple[str, ...]  # generation ends before the first of them by position
    max_new_tokens: int

    def examples(self) -> list[Example]:
        """The chosen examples, in the data set's order. Raises UserError for missing or malformed data."""

    def score(self, example: Example, text: str) -> Score:
        """The score of one generated text."""

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        """The metrics of all texts, with the keys of summary.json; scores[i] holds the samples of example i."""

    def sample_line(self, example: Example, text: str) -> dict[str, str] | None:
        """The line of samples.jsonl for a text; None where the data set has no such form."""


def check_settings(limit: int | None, subset_seed: int | None, max_new_tokens: int, stop_strings: Sequence[str]) -> tuple[str, ...]:
    """Raises UserError for settings that no data set can have; gives the stop strings as a tuple."""
    if limit is not None and not _is_count(limit):
        raise UserError(f"dataset.limit={limit} is not a number of examples: give 1 or more, or null for all.")
    if not _is_count(max_new_tokens):
        raise UserError(f"max_new_tokens={max_new_tokens} is not a number of tokens: give 1 or more.")
    if subset_seed is not None and (isinstance(subset_seed, bool) or not isinstance(subset_seed, int)):
        raise UserError(f"dataset.subset_seed={subset_seed} is not a seed: give a whole number, or null for the first examples.")
    if isinstance(stop_strings, str) or not all(isinstance(stop, str) and stop for stop in stop_strings):
        raise UserError(f"dataset.stop_strings={stop_strings!r} is not a list of texts that are not empty: give one, or [] for none.")
    return tuple(whole(stop, "dataset.stop_strings") for stop in stop_strings)




def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


E = TypeVar("E", bound=Example)


def subset(examples: Sequence[E], limit: int | None, seed: int | None) -> list[E]:
    """The first `limit` examples, or with a seed a random choice of as many, in the data set's order. Raises UserError for ids that occur
    twice.
    """
    seen = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"the data set has two examples with the id {example.id!r}: give each its own.")
        seen.add(example.id)
    if limit is None or limit >= len(examples):
        return list(examples)
    if seed is None:
        return list(examples[:limit])
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), limit))]
