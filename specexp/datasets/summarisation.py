"""Summaries scored by ROUGE: XSum (Narayan et al. 2018, arXiv 1808.08745) and any documents with a reference summary; `microsum` is this
class on the project's own file. Knows nothing of how the text came about.
"""
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from specexp.assets import asset_path
from specexp.datasets.example import Example, Score, check_settings, subset
from specexp.datasets.files import check_row, hub_rows, read_jsonl, read_parquet
from specexp.errors import UserError

KINDS = ("rouge1", "rouge2", "rougeL")
TEMPLATE = "Generate a short Summary for this article: {document}"


@dataclass(frozen=True)
class Article(Example):
    summary: str


class Summarisation:
    """path: jsonl or parquet with `document` and `summary` (and `id`, if there is one); None for `hub_id` at `revision` on the Hub.

    document_key, summary_key: the columns' names. template: the prompt, with {document} in it. stemmer: words are compared by their stems,
    as published figures do.
    """

    def __init__(self, limit: int | None = None, subset_seed: int | None = None, max_new_tokens: int = 64,
                 stop_strings: tuple[str, ...] = (), path: str | None = None, hub_id: str = "EdinburghNLP/xsum",
                 revision: str = "refs/convert/parquet", split: str = "test", template: str = TEMPLATE, stemmer: bool = True,
                 name: str = "xsum", subset: str | None = None, document_key: str = "document", summary_key: str = "summary"):
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, stop_strings)
        if "{document}" not in template:
            raise UserError(f"dataset.template={template!r} has no place for the article: put {{document}} into it.")
        self.limit, self.subset_seed, self.max_new_tokens = limit, subset_seed, max_new_tokens
        self.path, self.hub_id, self.revision, self.split = path, hub_id, revision, split
        self.template, self.stemmer, self.name, self.subset = template, stemmer, name, subset
        self.keys = (document_key, summary_key)

    def examples(self) -> list[Article]:
        document, summary = self.keys
        articles = [
            Article(str(row.get("id", f"{self.name}/{number}")), self.template.replace("{document}", row[document]), row[summary])
            for number, row in enumerate(self._rows())
        ]
        return subset(articles, self.limit, self.subset_seed)

    def score(self, example: Article, text: str) -> Score:
        return dict(self._rouge.compute(predictions=[text], references=[example.summary]))

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        """rouge1, rouge2, rougeL: means over all samples."""
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
        from specexp.scoring.rouge import Rouge  # seconds to import

        return Rouge(self.stemmer)
