"""Prompts of random lengths for load tests, after LLMPerf's protocol: an instruction, then lines of a text in random order. Not scored."""
import random
from collections.abc import Iterator
from itertools import chain

from specexp.datasets.example import Example, Score, check_settings
from specexp.datasets.texts import TextFile
from specexp.errors import UserError

TOKENS_PER_WORD = 4 / 3  # of English; what the server's tokenizer makes of a prompt stands in the results
INSTRUCTION = "Go on with lines of the following text in any order, in about {} tokens:\n\n"


class LoadPrompts:
    """requests: how many. Lengths are drawn from a normal distribution of so many tokens by `seed`; none is shorter than the instruction.

    path: a text, or jsonl whose `key` holds texts; its lines are the material.
    """

    def __init__(self, requests: int = 64, mean_input_tokens: int = 550, stddev_input_tokens: int = 150, max_new_tokens: int = 150,
                 seed: int = 11111, path: str = "asset:microsum.jsonl", key: str = "document", name: str = "load"):
        self.stop_strings = check_settings(requests, seed, max_new_tokens, ())
        if mean_input_tokens < 1 or stddev_input_tokens < 0:
            raise UserError(f"dataset.mean_input_tokens={mean_input_tokens} and dataset.stddev_input_tokens={stddev_input_tokens} describe "
                            "no lengths: give 1 or more, and 0 or more.")
        self.requests, self.mean_input_tokens, self.stddev_input_tokens = requests, mean_input_tokens, stddev_input_tokens
        self.max_new_tokens, self.seed, self.path, self.key, self.name = max_new_tokens, seed, path, key, name

    def examples(self) -> list[Example]:
        draws = random.Random(self.seed)
        lines = [line for line in TextFile(self.path, self.key, "\n").read().split("\n") if line.strip()]
        return [Example(f"{self.name}/{index}", self._prompt(lines, draws)) for index in range(self.requests)]

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
    """In random order, again and again."""
    return chain.from_iterable(iter(lambda: draws.sample(lines, len(lines)), None))


def _first_words(lines: Iterator[str], words: int) -> str:
    kept: list[str] = []
    while words > 0:
        found = next(lines).split()[:words]
        kept.append(" ".join(found))
        words -= len(found)
    return "\n".join(kept)
