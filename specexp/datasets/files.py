"""Reading data files, so that each fault is one sentence with the file, the line and what is wrong. Knows no data set."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from specexp.errors import UserError

TEXT_SUFFIXES = (".txt", ".md", ".py", ".jsonl")


def read_text(path: Path, option: str = "dataset.path") -> str:
    """The whole file, which is not blank; `.gz` is unpacked. option: where the user names another file."""
    if not path.is_file():
        raise UserError(f"data file {path} does not exist: give {option}= the name of a file that does.")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"data file {path} cannot be read ({error}): give {option}= a readable UTF-8 file.") from error
    if not text.strip():
        raise UserError(f"data file {path} is empty: give {option}= a file with at least one example.")
    return text


def read_lines(path: Path, option: str = "dataset.path") -> list[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank."""
    return [(number, line) for number, line in enumerate(read_text(path, option).split("\n"), 1) if line.strip()]


def read_jsonl(path: Path, required: tuple[str, ...], option: str = "dataset.path") -> list[dict]:
    """One object a line, each with texts under all the required keys."""
    return [check_row(_parse(path, number, line), required, f"{path} line {number}") for number, line in read_lines(path, option)]


def _parse(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} line {number} is not JSON ({error}): write one object a line.") from error


def read_parquet(path: Path, required: tuple[str, ...]) -> list[dict]:
    """One row each, with texts under all the required columns."""
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
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object: write one with {', '.join(required)}.")
    for key in required:
        if key not in row:
            raise UserError(f"{where} lacks {key!r}: each example needs {', '.join(required)}.")
        if not isinstance(row[key], str):
            raise UserError(f"{where} has {key!r} = {json.dumps(row[key], default=str)[:60]}, which is not a text: put it in quotes.")
    return row


def texts(paths: Iterable[Path], key: str) -> Iterator[str]:
    """Each text file, or what each line of a .jsonl file has under `key`; of directories all files with `TEXT_SUFFIXES`, by name."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give text files, .jsonl files or directories of them.")
        for file in sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES) if path.is_dir() else [path]:
            if file.suffix == ".jsonl":
                yield from (row[key] for row in read_jsonl(file, (key,)))
            else:
                yield file.read_text(encoding="utf-8", errors="replace")
