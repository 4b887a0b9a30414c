"""JSON that other programs can read, and files that are whole or not there. Knows nothing of what the values mean."""
import json
import os
from contextlib import suppress
from math import isfinite
from pathlib import Path

from specexp.errors import UserError


def to_json(value: object, indent: int | None = None) -> str:
    """`value` as ASCII JSON in which NaN and infinities are null (JSON has no word for them)."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def parse_lines(path: Path) -> tuple[list[dict], int]:
    """The objects in a JSON-lines file and the bytes they take; a broken last line without its newline (a write cut short) is left out.

    Any other line that is not an object is a UserError with file and line.
    """
    records, good = [], 0
    data = path.read_bytes()
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        record = _parse(line)
        if record is None and good + len(line) == len(data) and not line.endswith(b"\n"):
            break
        if record is None and line.strip():
            raise UserError(f"{path}, line {number} is not a JSON object: {line[:40]!r}; mend or delete that line.")
        records += [record] if record is not None else []
        good += len(line)
    return records, good


def read_object(path: Path) -> dict:
    """The one object in a JSON file; a UserError naming the file where it holds anything else."""
    value = _parse(path.read_bytes())
    if value is None:
        raise UserError(f"{path} is not a JSON object any more; mend or delete it.")
    return value


def _parse(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write_whole(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader, or a kill, finds the old file or the new one and nothing between."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):  # the directory itself may be missing, or no directory
            draft.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}); make room or choose another directory with hydra.run.dir=DIR.") from error


def remove_drafts(directory: Path) -> None:
    """What a kill left of `write_whole`; for a directory in which nobody else is writing."""
    for draft in directory.glob(".*.tmp"):
        draft.unlink()
