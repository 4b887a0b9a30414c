"""`python -m specexp`: compose the configuration, check it, instantiate each group, run the experiment.

Imports nothing heavy before the configuration is known to be good, so `--help`, completion and mistakes answer at once.
A user's mistake ends in one sentence, a defect keeps its traceback.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
import hydra.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from specexp.cli.cards import take_card
from specexp.cli.manual import manual
from specexp.cli.messages import conf_directory, explained, not_a_name, unknown_choice, unparsable
from specexp.errors import UserError
from specexp.tracking.records import write_failure

INTERRUPTED = 130  # the shell's code for it
NAMELESS = ("+=", "+@")  # what adds something without a name: Hydra asserts that nobody writes it
refused: list[int] = []  # numbers of the sweep's jobs that a user can put right
command: int | None = None  # the process of the command; a launcher's workers, which get copies of these names, are others


@hydra.main(version_base="1.3", config_path=conf_directory(), config_name="config")
def main(config: DictConfig) -> float | None:
    """One job. Returns its speedup: the sweepers' objective."""

    def work(build: Callable) -> float | None:
        if "joblib" in HydraConfig.get().launcher._target_:  # other workers beside this one, on the same machine
            take_card()
        from specexp.cli.check import check
        from specexp.experiment.job import run

        check(config)
        return run(config, Path(HydraConfig.get().runtime.output_dir), _sweep(), build)

    return attempted(work, f"interrupted; the same command with {_way_back()} goes on where it stopped.")


def attempted(work: Callable[[Callable], float | None], interrupted: str) -> float | None:
    """work(build), its mistakes told in a sentence: the end of a single run, one line of a sweep. build: instantiates a node."""
    try:
        return work(_built)
    except KeyboardInterrupt:
        _leave(interrupted, INTERRUPTED)
    except (UserError, OmegaConfBaseException) as error:
        sentence = told(error)
    if _sweep() is None:
        _leave(sentence)
    if os.getpid() != command:
        raise UserError(sentence)  # the command hears of it by Hydra
    job = HydraConfig.get().job
    write_failure(HydraConfig.get().runtime.output_dir, sentence)
    refused.append(job.num)  # the others go on
    print(f"specexp: job {job.num} ({job.override_dirname}): {sentence}", file=sys.stderr)
    return None


def cli() -> None:
    """The console script."""
    launch(main, lambda: manual(Path(conf_directory())))


def launch(task: Callable, helped: Callable[[], str], primary: str = "config") -> None:
    """A command: `task` is what hydra.main made of its job, `helped` gives its manual, `primary` names its configuration."""
    global command
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(helped())
        return
    if nameless := next((argument for argument in sys.argv[1:] if argument.startswith(NAMELESS)), None):
        _leave(unparsable(nameless))
    refused.clear()
    command = os.getpid()
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, costs no traceback
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us instead of printing them
    try:
        task()
    except KeyboardInterrupt:
        _leave("interrupted before anything was begun.", INTERRUPTED)
    except (UserError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if _inside_job(error, task) and not isinstance(error, UserError):
            raise
        _leave(told(error, primary))
    if refused:
        _leave(f"jobs {', '.join(map(str, refused))} of the sweep could not run, as told above; the others are finished.")


def _leave(sentence: str, code: int = 1) -> None:
    print(f"specexp: {sentence}", file=sys.stderr)
    sys.exit(code)


def _sweep() -> str | None:
    """The sweep's directory, which groups its jobs; None for a single run."""
    hydra_config = HydraConfig.get()
    return hydra_config.sweep.dir if hydra_config.mode == RunMode.MULTIRUN else None


def _way_back() -> str:
    """The override that leads to the directory of this run or sweep."""
    key, directory = ("hydra.run.dir", HydraConfig.get().runtime.output_dir) if _sweep() is None else ("hydra.sweep.dir", _sweep())
    place = Path(directory).absolute()
    return f"{key}={place}" if re.fullmatch(r"[\w./-]+", str(place)) else f"\"{key}='{place}'\""


def _built(node: DictConfig):
    """Instantiate; what a constructor refuses becomes a sentence for the user."""
    try:
        return hydra.utils.instantiate(node)
    except InstantiationException as error:
        if error.__cause__ is None or isinstance(error.__cause__, (UserError, ValueError)):
            raise UserError(told(error.__cause__ or error)) from error
        raise


def _inside_job(error: Exception, task: Callable) -> bool:
    """Whether it was raised below `task`, else by Hydra on the way there."""
    return any(frame.f_code is task.__wrapped__.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def told(error: Exception, primary: str = "config") -> str:
    """What is wrong, in the user's words. primary: the configuration that was composed."""
    disk = error if isinstance(error, OSError) and not isinstance(error, HydraException) else error.__cause__
    if isinstance(error, UserError):
        return str(error).replace("\n", "\\n")  # a value may have any character in it
    if isinstance(error, OverrideParseException):
        return unparsable(error.override)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return unknown_choice(group, name, error.options)
    if isinstance(disk, OSError):  # Hydra was making the run directory, or its log in there
        way_out = "choose another directory with hydra.run.dir=DIR (a sweep: hydra.sweep.dir=DIR)"
        return f"cannot write to {disk.filename or 'the run directory'} ({disk.strerror}); {way_out}."
    return not_a_name(sys.argv[1:]) if "Config group override must be" in str(error) else explained(error, primary)
