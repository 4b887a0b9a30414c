"""`python -m specexp`: compose the configuration, check it, instantiate each group, run the experiment.

Imports nothing heavy before the configuration is known to be good, so `--help`, completion and mistakes answer at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
import hydra.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from specexp.configuration import conf_directory, explained
from specexp.errors import UserError


@hydra.main(version_base="1.3", config_path=conf_directory(), config_name="config")
def main(config: DictConfig) -> float | None:
    """One job. Returns its speedup: the sweepers' objective."""
    try:
        from specexp.job import run

        return run(config, Path(HydraConfig.get().runtime.output_dir), _sweep(), _built)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the other jobs of the sweep go on
        sys.exit(f"specexp: {error}")


def _sweep() -> str | None:
    """The sweep's directory, which groups its jobs; None for a single run."""
    hydra_config = HydraConfig.get()
    return hydra_config.sweep.dir if hydra_config.mode == RunMode.MULTIRUN else None


def _built(node: DictConfig):
    """Instantiate; what a constructor refuses becomes a sentence for the user."""
    try:
        return hydra.utils.instantiate(node)
    except InstantiationException as error:
        if isinstance(error.__cause__, (UserError, ValueError)):
            raise UserError(str(error.__cause__)) from error
        raise


def cli() -> None:
    """The console script: a user's mistake ends in one sentence and exit code 1, a defect keeps its traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors to us instead of printing them
    try:
        main()
    except UserError as error:
        sys.exit(f"specexp: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"specexp: {explained(error)}")
    except OSError as error:
        if error.filename is None or not _ours(Path(error.filename)):
            raise
        sys.exit(f"specexp: cannot write to {error.filename} ({error.strerror}); choose another directory with hydra.run.dir=DIR (a sweep: hydra.sweep.dir=DIR).")


def _ours(path: Path) -> bool:
    """Whether Hydra was making a run directory there (it does so before `main` is called)."""
    wanted = [argument.partition("=")[2] for argument in sys.argv if argument.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
    roots = [Path(directory).absolute() for directory in (*wanted, "outputs", "multirun")]
    return any(root == path.absolute() or root in path.absolute().parents or path.absolute() in root.parents for root in roots)


if __name__ == "__main__":
    cli()
