"""`specexp run`, or `specexp` alone: compose the configuration, check it, build what it describes, run the experiment."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from specexp.cli.jobs import attempted, launch, sweep_directory
from specexp.cli.manual import manual
from specexp.cli.plugins import conf_directory, conf_folders


@hydra.main(version_base="1.3", config_path=conf_directory(), config_name="config")
def main(config: DictConfig) -> float | None:
    """One job. Returns its speedup: the sweepers' objective."""

    def work(build: Callable) -> float | None:
        if "joblib" in HydraConfig.get().launcher._target_:  # other workers beside this one, on the same machine
            from specexp.cli.cards import take_card

            take_card()
        from specexp.cli.check import check  # brings torch, which a mistake on the command line does not wait for
        from specexp.experiment.job import run

        check(config, HydraConfig.get().overrides.task)
        return run(config, Path(HydraConfig.get().runtime.output_dir), sweep_directory(), build)

    return attempted(work, f"interrupted; the same command with {_way_back()} goes on where it stopped.")


def cli() -> None:
    launch(main, lambda: manual(conf_folders()))


def _way_back() -> str:
    """The override that leads to the directory of this run or sweep."""
    sweep = sweep_directory()
    key, directory = ("hydra.run.dir", HydraConfig.get().runtime.output_dir) if sweep is None else ("hydra.sweep.dir", sweep)
    place = Path(directory).absolute()
    return f"{key}={place}" if re.fullmatch(r"[\w./-]+", str(place)) else f"\"{key}='{place}'\""
