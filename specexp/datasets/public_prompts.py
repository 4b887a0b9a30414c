"""Prompts from public data sets of texts, code, conversations, questions (WikiText-2, C4, The Stack, ShareGPT, ...). Nothing is scored."""

from collections.abc import Iterator

from specexp.datasets.example import Example, Score, check_settings, subset
from specexp.datasets.rows import Source, text_at
from specexp.errors import UserError


class PublicPrompts:
    """The text under `key` (dotted) of each row, at least `min_words` long, cut after `max_words` (None: whole).

    id_key: where a row says its own id; None: its number. path, hub_id, ...: as in `Source`.
    """

    def __init__(self, name: str, key: str, hub_id: str, limit: int | None = None, subset_seed: int | None = None,
                 max_new_tokens: int = 128, stop_strings: tuple[str, ...] = (), path: str | None = None, revision: str = "main",
                 split: str = "test", subset: str | None = None, id_key: str | None = None, min_words: int = 1,
                 max_words: int | None = None, files: str | None = None):
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, stop_strings)
        if min_words < 1 or (max_words is not None and max_words < min_words):
            raise UserError(f"dataset.min_words={min_words} and max_words={max_words} leave no prompt: give 1 <= min_words <= max_words.")
        self.limit, self.subset_seed, self.max_new_tokens, self.name = limit, subset_seed, max_new_tokens, name
        self.source = Source(path, hub_id, revision, split, subset, files)
        self.key, self.id_key, self.min_words, self.max_words = key, id_key, min_words, max_words

    def examples(self) -> list[Example]:
        found = list(self._found())
        if not found:
            raise UserError(f"data set {self.name} has no text of {self.min_words} words under {self.key!r}: lower dataset.min_words.")
        return subset(found, self.limit, self.subset_seed)

    def _found(self) -> Iterator[Example]:
        for number, row in enumerate(self.source.rows()):
            where = f"{self.source.path or self.source.hub_id} row {number + 1}"
            words = text_at(row, self.key, where).split(" ")
            if len([word for word in words if word.strip()]) >= self.min_words:
                name = f"{self.name}/{row.get(self.id_key, number)}"
                yield Example(name, " ".join(words[: self.max_words]).strip())

    def score(self, example: Example, text: str) -> Score:
        return {}

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        return {}

    def sample_line(self, example: Example, text: str) -> None:
        return None
