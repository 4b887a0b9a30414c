"""Texts whose perplexity is measured: a file of the user's, or the first rows of a data set from the Hub. What a text is read for is not
known here.
"""

from __future__ import annotations

from typing import Protocol

from specexp.assets import asset_path
from specexp.datasets.files import check_row, hub_rows, read_jsonl, read_text
from specexp.errors import UserError

OPTION = "text.path"


class Text(Protocol):
    name: str

    def read(self) -> str:
        """The whole text. Raises UserError where it cannot be had."""


class TextFile:
    """path: a text file, or a jsonl file whose lines' `key` are joined by `separator`; either may be packed (.gz)."""

    def __init__(self, path: str = "asset:microsum.jsonl", key: str = "document", separator: str = "\n\n", name: str = "file"):
        self.path, self.key, self.separator, self.name = path, key, separator, name

    def read(self) -> str:
        path = asset_path(self.path)
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return self.separator.join(row[self.key] for row in read_jsonl(path, (self.key,), OPTION))
        return read_text(path, OPTION)


class HubText:
    """The first `limit` rows (None: all) of a split, column `key`, joined by `separator`. subset: the data set's configuration."""

    def __init__(self, hub_id: str, revision: str, split: str, key: str, separator: str, name: str,
                 subset: str | None = None, limit: int | None = None):
        if limit is not None and limit < 1:
            raise UserError(f"text.limit={limit} is not a number of rows: give 1 or more, or null for all.")
        self.hub_id, self.revision, self.split, self.subset = hub_id, revision, split, subset
        self.key, self.separator, self.name, self.limit = key, separator, name, limit

    def read(self) -> str:
        rows = hub_rows(self.hub_id, self.revision, self.split, self.subset, "take a text of your own with text=file text.path=FILE")
        texts = [check_row(row, (self.key,), f"{self.hub_id} row {number}")[self.key] for number, row in enumerate(rows[: self.limit], 1)]
        return self.separator.join(texts)
