"""Data sets whose texts are compared with a reference: questions with one right answer, and documents with a summary.

GSM8K (Cobbe et al. 2021, arXiv:2110.14168) asks for a number at the end of a reasoning, MMLU (Hendrycks et al. 2020, arXiv:2009.03300) for
a letter. A text is right if the answer read from it is right; `accuracy` is the share of right texts. Summaries are scored by ROUGE: XSum
(Narayan et al. 2018, arXiv 1808.08745) and any documents with a reference summary; the data set `microsum` is `LineSummaries` on the
project's own file. This module does not know how a text was made.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from specexp.assets import asset_path
from specexp.datasets import RAW, Example, Form, Score, check_settings, subset
from specexp.datasets.files import Source, check_row, hub_rows, id_of, read_jsonl, read_parquet, text_at
from specexp.errors import UserError, whole

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LETTERS = "ABCDEFGHIJ"
CALLED = re.compile(rf"\b[Aa]nswer(?: is|:)+[\s*(\"'`]*([{LETTERS}])\b(?!['’])")  # "The answer is (B)", "**Answer:** B"


@dataclass(frozen=True)
class Question(Example):
    answer: str


class Answers(ABC):
    """What GSM8K and MMLU have in common. template: the prompt, with its places in braces. path, hub_id and the like: as in `Source`;
    prompt_format, system_prompt: as in `Form`.
    """

    places: tuple[str, ...] = ()

    def __init__(self, name: str, template: str, hub_id: str, limit: int | None = None, subset_seed: int | None = None,
                 max_new_tokens: int = 200, stop_strings: tuple[str, ...] = (), path: str | None = None, revision: str = "main",
                 split: str = "test", subset: str | None = None, prompt_format: str = RAW, system_prompt: str | None = None):
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, stop_strings)
        for place in self.places:
            if f"{{{place}}}" not in template:
                raise UserError(f"dataset.template={template!r} has no place for {place}: put {{{place}}} into it.")
        self.limit, self.subset_seed, self.max_new_tokens = limit, subset_seed, max_new_tokens
        self.name, self.template, self.source = name, template, Source(path, hub_id, revision, split, subset)
        self.form = Form(prompt_format, system_prompt)

    def examples(self) -> list[Question]:
        return self.form.asked(subset(list(self._questions()), self.limit, self.subset_seed))

    def _questions(self) -> Iterator[Question]:
        for number, row in enumerate(self.source.rows()):
            where = f"{self.source.path or self.source.hub_id} row {number + 1}"
            filled, answer = self.read(row, where)
            prompt = self.template
            for place, text in filled.items():
                prompt = prompt.replace(f"{{{place}}}", text)
            yield Question(f"{self.name}/{number}", prompt, answer)

    @abstractmethod
    def read(self, row: dict, where: str) -> tuple[dict[str, str], str]:
        """The texts for the template's places, and the right answer. Raises UserError for a row of another form."""

    @abstractmethod
    def given(self, text: str) -> str | None:
        """The answer that a text gives; None where it gives none."""

    def score(self, example: Question, text: str) -> Score:
        given = self.given(text)
        return {"correct": given == example.answer, "given": given or ""}

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        samples = [sample for example in scores for sample in example]
        return {"accuracy": sum(bool(sample["correct"]) for sample in samples) / len(samples)} if samples else {}

    def sample_line(self, example: Question, text: str) -> None:
        return None


class Gsm8k(Answers):
    """Rows with `question` and `answer`, in which the number follows after ####. The answer of a text is the last number in it."""

    places = ("question",)

    def read(self, row: dict, where: str) -> tuple[dict[str, str], str]:
        answer = number_in(text_at(row, "answer", where).rpartition("####")[2])
        if answer is None:
            raise UserError(f"{where} has no number behind #### in its answer: it is not in GSM8K's form.")
        return {"question": text_at(row, "question", where)}, answer

    def given(self, text: str) -> str | None:
        return number_in(text)


class Mmlu(Answers):
    """Rows with `question`, `choices` and `answer` (the number of the right choice, from 0). The answer of a text is the letter that it
    last calls its answer, and where it calls none so, the first letter that stands alone.
    """

    places = ("question", "choices")

    def read(self, row: dict, where: str) -> tuple[dict[str, str], str]:
        choices, answer = row.get("choices"), row.get("answer")
        if not isinstance(choices, list) or not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(LETTERS):
            raise UserError(f"{where} has no choices with the number of the right one in `answer`: it is not in MMLU's form.")
        lines = "\n".join(f"{letter}. {whole(str(choice), f'{where}, choices')}" for letter, choice in zip(LETTERS, choices, strict=False))
        subject = str(row.get("subject", "")).replace("_", " ")
        return {"question": text_at(row, "question", where), "choices": lines, "subject": subject}, LETTERS[answer]

    def given(self, text: str) -> str | None:
        called = CALLED.findall(text)
        found = re.search(rf"\b([{LETTERS}])\b(?!['’])", text)
        return called[-1] if called else found[1] if found else None


def number_in(text: str) -> str | None:
    """The last number of a text, without thousands' commas and without a decimal part of zeros."""
    found = NUMBER.findall(text)
    if not found:
        return None
    plain = found[-1].replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


KINDS = ("rouge1", "rouge2", "rougeL")
TEMPLATE = "Generate a short Summary for this article: {document}"


@dataclass(frozen=True)
class Article(Example):
    summary: str


class Summarisation:
    """Documents with summaries. path: jsonl or parquet with `document` and `summary` (and `id`, if there is one); None for `hub_id` at
    `revision` on the Hub.

    document_key, summary_key: the columns' names. template: the prompt, with {document} in it. stemmer: words are compared by their stems,
    as in published figures. stop_strings: None for `raw_stops` in raw prompts, and for none in chat. prompt_format, system_prompt: as in
    `Form`.
    """

    raw_stops: tuple[str, ...] = ()

    def __init__(self, limit: int | None = None, subset_seed: int | None = None, max_new_tokens: int = 64,
                 stop_strings: tuple[str, ...] | None = None, path: str | None = None, hub_id: str = "EdinburghNLP/xsum",
                 revision: str = "refs/convert/parquet", split: str = "test", template: str = TEMPLATE, stemmer: bool = True,
                 name: str = "xsum", subset: str | None = None, document_key: str = "document", summary_key: str = "summary",
                 prompt_format: str = RAW, system_prompt: str | None = None):
        self.form = Form(prompt_format, system_prompt)
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, self.form.stop_strings(stop_strings, self.raw_stops))
        if "{document}" not in template:
            raise UserError(f"dataset.template={template!r} has no place for the article: put {{document}} into it.")
        self.limit, self.subset_seed, self.max_new_tokens = limit, subset_seed, max_new_tokens
        self.path, self.hub_id, self.revision, self.split = path, hub_id, revision, split
        self.template, self.stemmer, self.name, self.subset = template, stemmer, name, subset
        self.keys = (document_key, summary_key)

    def examples(self) -> list[Article]:
        document, summary = self.keys
        articles = [
            Article(self._id(row, number), self.template.replace("{document}", row[document]), row[summary])
            for number, row in enumerate(self._rows())
        ]
        return self.form.asked(subset(articles, self.limit, self.subset_seed))

    def _id(self, row: dict, number: int) -> str:
        return id_of(row["id"], "id", f"{self.path or self.hub_id} row {number + 1}") if "id" in row else f"{self.name}/{number}"

    def score(self, example: Article, text: str) -> Score:
        return dict(self._rouge.compute(predictions=[text], references=[example.summary]))

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        """rouge1, rouge2 and rougeL, each the mean over all samples."""
        samples = [sample for example in scores for sample in example]
        return {kind: sum(sample[kind] for sample in samples) / len(samples) for kind in KINDS} if samples else {}

    def sample_line(self, example: Article, text: str) -> None:
        return None

    def _rows(self) -> list[dict]:
        if self.path is None:
            rows = hub_rows(self.hub_id, self.revision, self.split, self.subset)
            return [check_row(row, self.keys, f"{self.hub_id} row {number}") for number, row in enumerate(rows, 1)]
        path = asset_path(self.path)
        return read_parquet(path, self.keys) if Path(path).suffix == ".parquet" else read_jsonl(path, self.keys)

    @cached_property
    def _rouge(self):
        from specexp.scoring.texts import Rouge  # this import takes seconds, so it waits for the first score

        return Rouge(self.stemmer)


class LineSummaries(Summarisation):
    """Documents whose summaries are one line: the text after a raw prompt ends with that line."""

    raw_stops = ("\n",)
