"""How many threads torch computes with on a CPU."""

from __future__ import annotations

from functools import cache

import torch


def set_threads(threads: int | None) -> None:
    """A later job of the sweep that asks for no number gets torch's own again."""
    torch.set_num_threads(_default_threads() if threads is None else threads)


@cache
def _default_threads() -> int:
    return torch.get_num_threads()
