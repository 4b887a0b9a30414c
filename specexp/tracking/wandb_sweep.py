"""A sweep's own run in Weights & Biases, in the group of its jobs: aggregate table, figures, and the speedup against what was varied.

A mirror of what is on disk, like the jobs' runs; knows rows of figures and files of pictures, nothing of how they were made.
"""
from collections.abc import Sequence
from pathlib import Path

from specexp.tracking.wandb import WandbTracker

CURVES = ("speedup", "predicted_speedup", "output_tps_per_user", "mean_acceptance_length", "draft_acceptance_rate")


class WandbSweep(WandbTracker):
    """`records` of `finish` are the rows of the sweep's table. pictures: PNG files. x: the row's key whose whole numbers are the steps of
    the history (a draft length, say), so that curves can be looked at offline too; None: no curves."""

    job_type = "sweep"
    pictures: Sequence[Path] = ()
    x: str | None = None

    def _rows(self, records: list[dict]) -> list[dict]:
        return records

    def _log_rows(self, wandb, run, rows: list[dict]) -> None:
        for step, row in self._steps(rows).items():
            run.log(row, step=step)
        last = max(self._steps(rows), default=-1) + 1
        keys = list(dict.fromkeys(key for row in rows for key in row))
        table = wandb.Table(columns=keys, data=[[_cell(row.get(key)) for key in keys] for row in rows], allow_mixed_types=True)
        run.log({"sweep": table, **{f"figures/{file.stem}": wandb.Image(str(file)) for file in self.pictures}}, step=last)

    def _steps(self, rows: Sequence[dict]) -> dict[int, dict[str, float]]:
        """Step -> NAME/METHOD -> figure."""
        steps: dict[int, dict[str, float]] = {}
        for row in rows:
            if self.x and isinstance(row.get(self.x), int):
                figures = {f"{name}/{row['method']}": row[name] for name in CURVES if isinstance(row.get(name), float)}
                steps.setdefault(row[self.x], {}).update(figures)
        return dict(sorted(steps.items()))


def _cell(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
