"""What an experiment asks of a tracker, and the tracker that does nothing. A tracker mirrors what is on disk; it is never the only copy."""
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Called before the first example and after everything is on disk; neither call raises because of the tracker, nor asks anything."""

    def start(self, config: dict, run_directory: Path, group: str | None = None) -> None:
        """The resolved configuration, where the run is on disk, and the sweep it belongs to."""

    def finish(self, summary: dict, records: list[dict]) -> None:
        """The flat summary and all records, earlier sessions' included."""


class NullTracker:
    """`tracker=none`."""

    def start(self, config: dict, run_directory: Path, group: str | None = None) -> None:
        pass

    def finish(self, summary: dict, records: list[dict]) -> None:
        pass
