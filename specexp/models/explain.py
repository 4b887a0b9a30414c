"""Turns what transformers' loaders refuse into one sentence: it is about the model that was named, not about us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from specexp.errors import UserError


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Errors of a load inside become a UserError that begins with `subject`; the original stays as its cause."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{subject} cannot be loaded: {_reason(error).rstrip('.')}.") from error


def _reason(error: BaseException) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "it brings code of its own; allow that with its trust_remote_code=true if you trust its source."
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
