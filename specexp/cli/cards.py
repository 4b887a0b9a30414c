"""One CUDA card for each of several processes on one machine: a process takes a card that no other has, and keeps it until it ends.

Looks at device files and environment variables only, before CUDA is used. Only processes of this project respect one another's cards.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from filelock import BaseFileLock, Timeout, UnixFileLock

from specexp.errors import UserError

_held: list[BaseFileLock] = []  # kept as long as the process lasts


def take_card(devices: Path = Path("/dev")) -> str | None:
    """The card this process has, made the only visible one; None where there are fewer than two to choose from.

    Raises UserError where other processes hold all of them.
    """
    if _held:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    cards = _visible(devices)
    if len(cards) < 2:
        return None
    for card in cards:
        if (lock := _lock(card)) is not None:
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = card
            return card
    raise UserError(f"all {len(cards)} cards are held by other processes; set hydra.launcher.n_jobs={len(cards)} or wait for them.")


def _visible(devices: Path) -> list[str]:
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [card.strip() for card in chosen.split(",") if card.strip()]
    return sorted((file.name[6:] for file in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)), key=int)


def _lock(card: str) -> BaseFileLock | None:
    """The lock of the card, None where another process has it."""
    name = re.sub(r"\W", "_", card)
    file = Path(tempfile.gettempdir()) / f"specexp-{os.getuid()}-card-{name}.lock"
    lock = UnixFileLock(file, mode=0o600, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
