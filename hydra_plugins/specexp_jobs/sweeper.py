"""A sweep over a list of jobs instead of a product of values, for the rows of a published table, whose methods do not share their
settings.

`hydra.sweeper.jobs` holds lines of overrides. Each line may itself be a sweep (`method=speculative method.gamma=4,5,6`) and becomes as
many jobs. What the command line gives is added to every line, and replaces what a line gives for the same key.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


def rows(jobs: Sequence[str], given: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job, every job once."""
    keys = {override.get_key_element() for override in given}
    found: dict[tuple, list[str]] = {}
    for line in jobs:
        own = [override for override in OverridesParser.create().parse_overrides(line.split()) if override.get_key_element() not in keys]
        [batch] = BasicSweeper.split_arguments([*own, *given], None)
        found |= {tuple(sorted(row)): row for row in batch}
    return list(found.values())


class JobsSweeper(BasicSweeper):
    """jobs: lines of overrides. max_batch_size, params: those of Hydra's own sweeper; the params are added to every line."""

    def __init__(self, max_batch_size: int | None, jobs: Sequence[str], params: dict | None = None) -> None:
        super().__init__(max_batch_size, params)
        self.jobs = list(jobs)

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        every = rows(self.jobs, overrides)
        size = max_batch_size or len(every)
        return [every[start : start + size] for start in range(0, len(every), size)]
