"""This room keeps what a run leaves behind: always records on disk, and after them Weights & Biases. It knows nothing of decoding and
models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from specexp.figures.record import Record


class Tracker(Protocol):
    """Mirrors a run that is on disk, and is never the only copy. It is called before the first example and after everything is on disk;
    neither call raises an error of the tracker's own, and neither asks the user anything.
    """

    def start(self, config: dict, run_directory: Path, group: str | None = None) -> None:
        """Takes the resolved configuration, where the run is on disk, and the sweep it belongs to."""

    def finish(self, summary: dict, records: list[Record]) -> None:
        """Takes the flat summary and all records, those of earlier sessions included."""


class NullTracker:
    """`tracker=none`: nothing is mirrored."""

    def start(self, config: dict, run_directory: Path, group: str | None = None) -> None:
        pass

    def finish(self, summary: dict, records: list[Record]) -> None:
        pass
