"""This module reads the rows and texts of data files, from a local file or from the Hub. Each fault is told in one sentence with the file,
the line and what is wrong.

Where the Hub cannot be reached, a sentence says within seconds how to do without it: left alone, its client would retry for a minute where
there is no network. That the Hub has what is wanted, or goes on answering, is not promised. This module knows no data set and no model.

The last part reads whole texts, which `specexp perplexity` predicts.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from specexp.assets import asset_path
from specexp.errors import UserError, decoded, whole

TEXT_SUFFIXES = (".txt", ".md", ".py", ".jsonl")
IDS = {"id", "task_id"}  # keys whose values may be numbers


def read_text(path: Path, option: str = "dataset.path") -> str:
    """The content of the whole file, which must not be blank; `.gz` is unpacked. option: the key with which the user names another file."""
    if not path.is_file():
        raise UserError(f"data file {path} does not exist: give {option}= the name of a file that does.")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data file {path} cannot be read ({error}): give {option}= a readable UTF-8 file.") from error
    text = decoded(data, f"data file {path}", f", or give {option}= another file")
    if not text.strip():
        raise UserError(f"data file {path} is empty: give {option}= a file with at least one example.")
    return text


def read_lines(path: Path, option: str = "dataset.path") -> list[tuple[int, str]]:
    """Each line that is not blank, as (line number from 1, text)."""
    return [(number, line) for number, line in enumerate(read_text(path, option).split("\n"), 1) if line.strip()]


def read_jsonl(path: Path, required: tuple[str, ...], option: str = "dataset.path") -> list[dict]:
    """The rows of a file with one JSON object a line, each with texts under all the required keys."""
    return [check_row(row, required, where) for where, row in jsonl_rows(path, option)]


def jsonl_rows(path: Path, option: str = "dataset.path") -> Iterator[tuple[str, object]]:
    """(where it stands, what stands there) of each line that is not blank."""
    return ((f"{path} line {number}", _parse(path, number, line)) for number, line in read_lines(path, option))


def _parse(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError of its own
        raise UserError(f"{path} line {number} is not JSON ({error}): write one object a line.") from error


def read_parquet(path: Path, required: tuple[str, ...]) -> list[dict]:
    """The rows of a parquet file, each with texts under all the required columns."""
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise UserError(f"data file {path} does not exist: give dataset.path= the name of a file that does.")
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"data file {path} is not readable parquet ({error}): give dataset.path= a parquet or jsonl file.") from error
    if not rows:
        raise UserError(f"data file {path} is empty: give dataset.path= a file with at least one example.")
    return [check_row(row, required, f"{path} row {number}") for number, row in enumerate(rows, 1)]


def check_row(row: object, required: tuple[str, ...], where: str) -> dict:
    """The row, in which ids that are numbers have become texts."""
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object: write one with {', '.join(required)}.")
    for key in required:
        if key not in row:
            raise UserError(f"{where} lacks {key!r}: each example needs {', '.join(required)}.")
    return row | {key: (id_of if key in IDS else _text_of)(row[key], key, where) for key in required}


def id_of(value: object, key: str, where: str) -> str:
    """The id of a row; a number is taken as it is written. Raises UserError for anything else that is no text."""
    number = (isinstance(value, float) and isfinite(value)) or (isinstance(value, int) and not isinstance(value, bool))
    return str(value) if number else _text_of(value, key, where)


def _text_of(value: object, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} has {key!r} = {json.dumps(value, default=str)[:60]}, which is not a text: put it in quotes.")
    return whole(value, f"{where}, {key!r}")


def texts(paths: Iterable[Path], key: str) -> Iterator[str]:
    """The text of each file, or what each line of a .jsonl file has under `key`; of a directory, all files with `TEXT_SUFFIXES`, by name.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give text files, .jsonl files or directories of them.")
        for file in sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES) if path.is_dir() else [path]:
            if file.suffix == ".jsonl":
                yield from (row[key] for row in read_jsonl(file, (key,)))
            else:
                yield file.read_text(encoding="utf-8-sig", errors="replace")


@dataclass(frozen=True)
class Source:
    """Where the rows of a data set come from. path: a jsonl or parquet file; None for `split` of `hub_id` at `revision` on the Hub, with
    its configuration `subset` where the data set has several, and only its `files` where they are given.
    """

    path: str | None
    hub_id: str
    revision: str
    split: str
    subset: str | None
    files: str | None = None

    def rows(self) -> list[dict]:
        """All rows. Raises UserError where they cannot be had."""
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
    return whole(value, f"{where}, {key!r}")


def hub_rows(hub_id: str, revision: str, split: str, subset: str | None = None,
             instead: str = "give dataset.path= a jsonl or parquet file with the same columns", files: str | None = None) -> list[dict]:
    """All rows of a split, from the local cache where the Hub is out of reach or HF_HUB_OFFLINE is set.

    subset: the data set's configuration, where it has several. instead: what the user can do without the Hub. files: a pattern of the
    files to take, which then form one split, `train`; other files are not fetched.
    """
    import datasets
    import huggingface_hub

    if not sys.stderr.isatty():  # a bar in a log is noise
        datasets.disable_progress_bars()
    switches = (huggingface_hub.constants, datasets.config)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    alone = any(before) or offline()
    for switch in switches:
        switch.HF_HUB_OFFLINE = alone  # otherwise the libraries retry for a minute
    try:
        if files is None:
            return datasets.load_dataset(hub_id, subset, revision=revision, split=split).to_list()
        # datasets would not find them in its own cache again without a network
        place = huggingface_hub.snapshot_download(hub_id, repo_type="dataset", revision=revision, allow_patterns=files)
        return datasets.load_dataset(place, data_files=files, split=split).to_list()
    except (OSError, ValueError, RuntimeError) as error:
        reason = "there is no network, or HF_HUB_OFFLINE is set" if alone else " ".join(str(error).split())[:200]
        raise UserError(f"data set {hub_id} ({split}) is neither in the local cache nor to be had from the Hub ({reason}): "
                        f"connect to the network, or {instead}.") from error
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


PROBE_SECONDS = 3.0


def offline() -> bool:
    """Whether the Hub must not be asked (HF_HUB_OFFLINE) or does not answer a probe of 3 s, which is made once per process."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode() or not _answers(*_probe_address())


@lru_cache(maxsize=4)
def _answers(host: str, port: int) -> bool:
    """Whether the host answers. The probe runs in a thread that may be left behind: name resolution has no timeout and can block much
    longer than a socket.
    """
    answered = threading.Event()

    def probe() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=PROBE_SECONDS):
            answered.set()

    thread = threading.Thread(target=probe, daemon=True, name="hub-probe")
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _probe_address() -> tuple[str, int]:
    """The Hub's address, or that of a proxy in front of it: behind a proxy the Hub's own name may not even resolve."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    proxies = getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(hub.hostname or ""):
        hub = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return hub.hostname or "", hub.port or (443 if hub.scheme == "https" else 80)


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
