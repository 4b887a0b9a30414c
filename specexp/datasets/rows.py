"""Rows of a data set as objects: from a local file, else from the Hub; and a text deep inside a row. Knows no data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specexp.assets import asset_path
from specexp.datasets.files import read_jsonl, read_parquet
from specexp.datasets.hub import hub_rows
from specexp.errors import UserError


@dataclass(frozen=True)
class Source:
    """path: jsonl or parquet; None for `split` of `hub_id` at `revision` on the Hub, `subset` where the data set has several, and
    `files` alone of it where given."""

    path: str | None
    hub_id: str
    revision: str
    split: str
    subset: str | None
    files: str | None = None

    def rows(self) -> list[dict]:
        """All of them; raises UserError where they cannot be had."""
        if self.path is None:
            return hub_rows(self.hub_id, self.revision, self.split, self.subset, files=self.files)
        path = asset_path(self.path)
        return read_parquet(path, ()) if Path(path).suffix == ".parquet" else read_jsonl(path, ())


def text_at(row: dict, key: str, where: str) -> str:
    """The text under a dotted key (`conversations.0.value`). Raises UserError where there is none."""
    value: object = row
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise UserError(f"{where} lacks {key!r}: it has {', '.join(map(str, row)) or 'nothing'}.")
    if not isinstance(value, str):
        raise UserError(f"{where} has under {key!r} no text but {type(value).__name__}.")
    return value
