"""Commands whose configuration Hydra composes, and the first of them: `specexp run`, or `specexp` alone.

`launch` starts such a command, `attempted` does the work of its one job or of each job of its sweep, `explain_error` turns what went wrong
into a sentence. A user's mistake ends a single run with that sentence; in a sweep it is one line, and the other jobs run. A defect keeps
its traceback. On a machine with several CUDA cards, jobs that run side by side take one card each; the locks that see to this bind only
the processes of this project.

The last part names a job's directory inside its sweep's: the job's overrides, as far as every file system takes them as one name. Where
characters had to be replaced, or the name to be cut, a hash of all overrides follows, so that no two jobs share a directory and none leaves
the sweep's. What the overrides were is in `.hydra/overrides.yaml`. A directory that an earlier version named otherwise is used again by a
job with the same overrides.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from pathlib import Path

import hydra
import hydra.utils
import yaml
from filelock import BaseFileLock, Timeout, UnixFileLock
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from specexp.cli.credentials import refuse_arguments, take_back
from specexp.cli.manual import manual
from specexp.cli.messages import explain_hydra, not_a_name, not_yaml, unknown_choice, unparsable
from specexp.cli.plugins import conf_directory, conf_folders
from specexp.errors import INTERRUPTED, Ended, UserError, ending, on_one_line
from specexp.tracking.records import write_failure

HELP = {"-h", "--help"}
NAMELESS = ("+=", "+@")  # what adds something without a name: Hydra asserts that nobody writes it
refused: list[int] = []  # numbers of the sweep's jobs that a user can put right
command: int | None = None  # the process of the command; the workers of a launcher get copies of these names and are other processes


def launch(task: Callable, manual: Callable[[], str], primary: str = "config") -> None:
    """Run a command. task: what hydra.main made of its job. manual: gives the text of --help. primary: its configuration's name."""
    global command
    name = "specexp" if primary == "config" else f"specexp {primary}"
    with ending(name, "interrupted before anything was begun."):
        if HELP & set(sys.argv[1:]):
            print(manual())
            return
        refuse_arguments(sys.argv[1:])
        if nameless := next((argument for argument in sys.argv[1:] if argument.startswith(NAMELESS)), None):
            raise UserError(unparsable(nameless))
        refused.clear()
        command = os.getpid()
        logging.raiseExceptions = False  # a log that cannot be written, on a full disk, costs no traceback
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us instead of printing them
        try:
            task()
        except (HydraException, OmegaConfBaseException, yaml.MarkedYAMLError, OSError, ValueError, RuntimeError, ImportError) as error:
            if _inside_job(error, task):
                raise
            take_back()
            raise UserError(explain_error(error, primary)) from error
        if refused:
            numbers = ", ".join(map(str, refused))
            raise UserError(f"jobs {numbers} of the sweep could not run, for the reasons above; the others are finished.")


def attempted(work: Callable[[Callable], float | None], interrupted: str) -> float | None:
    """work(build) as a job. A mistake ends a single run; in a sweep it is noted, and the other jobs go on. build: instantiates a node."""
    try:
        return work(build)
    except KeyboardInterrupt:
        raise Ended(interrupted, INTERRUPTED) from None
    except (UserError, OmegaConfBaseException) as error:
        sentence = explain_error(error)
    if sweep_directory() is None:
        take_back()
        raise Ended(sentence)
    if os.getpid() != command:
        raise UserError(sentence)  # Hydra brings it to the process of the command
    number = HydraConfig.get().job.num
    write_failure(job_directory(), sentence)
    refused.append(number)
    print(f"specexp: job {number} ({','.join(sorted(overrides()))}): {sentence}", file=sys.stderr)
    return None


def build(node: DictConfig):
    """The object that a node of the configuration describes. What its constructor refuses becomes a sentence for the user."""
    try:
        return hydra.utils.instantiate(node)
    except InstantiationException as error:
        if error.__cause__ is None or isinstance(error.__cause__, (UserError, ValueError)):
            raise UserError(explain_error(error.__cause__ or error)) from error
        raise


def configured(primary: str) -> Callable:
    """Makes a command's main function of one that takes the configuration which conf/PRIMARY.yaml begins."""
    return hydra.main(version_base="1.3", config_path=conf_directory(), config_name=primary)


def composed(primary: str, overrides: Sequence[str]) -> DictConfig:
    """A running command's configuration, composed anew with these overrides. Raises UserError for what Hydra refuses."""
    try:
        return hydra.compose(primary, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain_error(error, primary)) from error


def overrides() -> list[str]:
    """What the user gave to this job, as KEY=VALUE; a value may be an interpolation, which stands here as it was written."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)


def job_directory() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def sweep_directory() -> str | None:
    """The directory of the sweep that this job belongs to; None for a single run."""
    hydra_config = HydraConfig.get()
    return hydra_config.sweep.dir if hydra_config.mode == RunMode.MULTIRUN else None


def explain_error(error: Exception, primary: str = "config") -> str:
    """What is wrong, as a sentence. primary: the name of the configuration that was composed."""
    disk = error if isinstance(error, OSError) and not isinstance(error, HydraException) else error.__cause__
    if isinstance(error, UserError):
        return on_one_line(str(error))
    if isinstance(error, OverrideParseException):
        return unparsable(error.override)
    if isinstance(error, yaml.MarkedYAMLError):
        return not_yaml(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return unknown_choice(group, name, error.options)
    if isinstance(disk, OSError):  # Hydra was making the run directory, or its log in there
        way_out = "choose another directory with hydra.run.dir=DIR (a sweep: hydra.sweep.dir=DIR)"
        return f"cannot write to {disk.filename or 'the run directory'} ({disk.strerror}); {way_out}."
    return not_a_name(sys.argv[1:]) if "Config group override must be" in str(error) else explain_hydra(error, primary)


def _inside_job(error: Exception, task: Callable) -> bool:
    """Whether it was raised below `task`; otherwise Hydra raised it on the way there."""
    return any(frame.f_code is task.__wrapped__.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


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


@configured("config")
def main(config: DictConfig) -> float | None:
    """One job. Returns its speedup: the sweepers' objective."""

    def work(build: Callable) -> float | None:
        if "n_jobs" in HydraConfig.get().launcher:  # other workers beside this one, on the same machine
            take_card()
        from specexp.cli.check import check  # brings torch, which a mistake on the command line does not wait for
        from specexp.experiment.job import run

        check(config, overrides())
        return run(config, job_directory(), sweep_directory(), build)

    return attempted(work, f"interrupted; the same command with {_way_back()} goes on where it stopped.")


def cli() -> None:
    launch(main, lambda: manual(conf_folders()))


def _way_back() -> str:
    """The override that leads to the directory of this run or sweep."""
    sweep = sweep_directory()
    key, directory = ("hydra.run.dir", job_directory()) if sweep is None else ("hydra.sweep.dir", sweep)
    place = Path(directory).absolute()
    return f"{key}={place}" if re.fullmatch(r"[\w./-]+", str(place)) else f"\"{key}='{place}'\""


LONGEST_BEFORE = 255  # bytes of a part of a path
LONGEST = 120  # bytes: file systems take 255 (encrypted ones 143), W&B a name of 128
HASHED = re.compile(r"-[0-9a-f]{10}$")
SWITCH = re.compile(r"=(True|False)(?=,|$)")  # as Hydra writes a switch, however it was given; a text of these letters has quotes
UNUSUAL = re.compile(r"[^A-Za-z0-9_.,=+@~\[\]-]")


def directory_name(overrides: str) -> str:
    """One name of at most LONGEST bytes for `overrides`, KEY=VALUE,KEY=VALUE. Different texts have different names, also on a file system
    that takes upper and lower case for the same.

    method.gamma=4,seed=1 stays as it is; dataset.path=../../x becomes dataset.path=.._.._x-1f0c64f5d0 or the like.
    """
    plain, small = UNUSUAL.sub("_", overrides), SWITCH.sub("=", overrides)
    if plain == overrides and small == small.lower() and len(overrides) <= LONGEST and not HASHED.search(overrides):
        return overrides
    ending = f"-{sha256(overrides.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"
    return plain[: LONGEST - len(ending)] + ending


def of_job(*, _root_: DictConfig) -> str:
    """What `${specexp.job_directory:}` stands for in hydra.sweep.subdir."""
    hydra = OmegaConf.to_container(_root_.hydra, resolve=False)
    overrides = hydra["job"]["override_dirname"]
    ignored = hydra["job"]["config"]["override_dirname"]["exclude_keys"]
    earlier = _earlier(Path(_root_.hydra.sweep.dir), overrides, counted(hydra["overrides"]["task"], ignored), ignored)
    return earlier or directory_name(overrides)


def counted(overrides: Sequence[str], ignored: Collection[str]) -> list[str]:
    """The overrides that tell a job from others, sorted."""
    return sorted(override for override in overrides if override.partition("=")[0].lstrip("+~") not in ignored)


def _earlier(sweep: Path, name: str, overrides: list[str], ignored: Collection[str]) -> str | None:
    """The overrides as such, where they lead to a directory of the sweep, or below one, that holds a job with these overrides."""
    file = sweep / name / ".hydra" / "overrides.yaml"
    if ".." in Path(name).parts or max(map(len, name.encode("utf-8", "replace").split(b"/"))) > LONGEST_BEFORE or not file.is_file():
        return None
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        return None
    return name if isinstance(before, list) and counted(list(map(str, before)), ignored) == overrides else None


OmegaConf.register_new_resolver("specexp.job_directory", of_job, replace=True)
