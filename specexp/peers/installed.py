"""What the installed transformers cannot do: combinations that were seen to crash in 5.17 and to give the right text in 5.23.

Versions between the two were not tried and count as the older one.
"""

from __future__ import annotations

import transformers

from specexp.errors import UserError

SINCE = "5.23"


def refuse_before_it_works(what: str, concerned: bool) -> None:
    """UserError where `what` is wanted of a transformers that crashes in it."""
    if concerned and is_old():
        told = f"transformers {transformers.__version__} crashes in {what}"
        raise UserError(f"{told}; install transformers {SINCE} or later, or choose a method of our own.")


def is_old() -> bool:
    return _numbers(transformers.__version__) < _numbers(SINCE)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]
