"""What Hydra writes before a job begins: nothing of it may be a secret, or half a character, which no file can hold; and what it wrote for
a job that is then refused goes again.

A secret is the value of an environment variable whose name says so (OPENAI_API_KEY, HF_TOKEN), a password inside a URL, and what is given
to a key that is named like a secret (+method.api_key=...). A secret that nothing tells apart from other texts is not known here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from specexp.errors import Ended, UserError, whole

NAMED_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE)S?(_?\d+)?$", re.IGNORECASE)
SECRET_KEY = re.compile(
    r"((^|[._])(api_?key|access_?key|secret|password|authorization)|(^|\.|hf_|hub_|api_|auth_|access_)token)$", re.IGNORECASE
)
NO_SECRETS = {"", "none", "null", "true", "false", "???"}
PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
SHORTEST = 12  # characters; a shorter value may well stand in a configuration by chance


class RefuseCredentials(Callback):
    """What Hydra calls before it makes the directory of a run or of a sweep, as it writes the configuration there before a job begins.

    Hydra turns whatever a callback raises into a warning, except for the end of the process.
    """

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        _end_for(config)
        _remember(Path(config.hydra.run.dir), config.hydra)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        _end_for(config)
        _remember(Path(config.hydra.sweep.dir), config.hydra)

    def on_job_start(self, config: DictConfig, **_: object) -> None:
        """A choice of a sweep may bring a secret that no override shows. Its job is refused when it begins; what Hydra wrote goes now."""
        try:
            refuse_credentials(config)
        except UserError:
            written = Path(config.hydra.runtime.output_dir) / config.hydra.output_subdir
            for file in written.glob("*.yaml"):
                file.unlink()
            written.rmdir()


@dataclass(frozen=True)
class Before:
    """How a directory was before Hydra wrote into it. missing: it and those above it that were not there, the uppermost last. empty:
    whether there was nothing in it. held: the files that Hydra replaces, with their content. written: the names of what a command writes
    there before its first record."""

    directory: Path
    missing: tuple[Path, ...]
    empty: bool
    held: dict[Path, bytes]
    written: frozenset[str]


BEFORE_RECORDS = {"multirun.yaml", "config.yaml", ".lock", "records.jsonl", "environment.json"}
_begun: list[Before] = []  # what this command has begun: one or none


def _remember(directory: Path, hydra: DictConfig) -> None:
    _begun.clear()
    if hydra.output_subdir is None:  # then Hydra writes nothing
        return
    written = frozenset({hydra.output_subdir, f"{hydra.job.name}.log", *BEFORE_RECORDS})
    with suppress(OSError):  # a name that is too long, say: Hydra will say so
        missing = tuple(takewhile(lambda place: not place.exists(), (directory, *directory.absolute().parents)))
        empty = bool(missing) or not any(directory.iterdir())
        files = [directory / "multirun.yaml", *(directory / hydra.output_subdir).glob("*.yaml")]
        _begun.append(Before(directory, missing, empty, {file: file.read_bytes() for file in files if file.is_file()}, written))


def take_back() -> None:
    """After a refusal: what was written for it goes again, directories too, and what it replaced is put back. Nothing of a run that has a
    record is taken away.
    """
    while _begun:
        before = _begun.pop()
        for file, content in before.held.items():
            file.write_bytes(content)
        files = list(before.directory.iterdir()) if before.directory.is_dir() else []
        if not before.empty or not before.written.issuperset(file.name for file in files) or any(map(_is_kept, files)):
            continue
        for file in files:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        with suppress(OSError):  # not empty: others write there too
            for place in before.missing:
                place.rmdir()


def _is_kept(file: Path) -> bool:
    """Whether it shows that its directory has a record, or that another process writes there."""
    if file.name == ".lock":
        return file.read_text(errors="replace").strip() not in ("", str(os.getpid()))
    return file.name == "records.jsonl" and file.stat().st_size > 0


def refuse_arguments(arguments: Sequence[str]) -> None:
    """UserError for an argument of a command line that contains a secret or half a character."""
    for number, argument in enumerate(arguments, 1):
        whole(argument, f"argument {number} of the command line")
        key, _, value = argument.partition("=")
        _refuse(key, argument)
        _refuse_by_form(key.lstrip("+~"), value)


def refuse_credentials(config: DictConfig) -> None:
    """UserError naming the key whose name or value contains a secret, never the secret itself, or half a character.

    Each value is looked at as it is written and, where it can be resolved by now, as it is meant.
    """
    leaves = [*_leaves(OmegaConf.to_container(config, resolve=False)), *_leaves(config)]
    for key, text in sorted(leaves, key=lambda leaf: leaf[0].startswith("hydra")):  # Hydra's own keys repeat those of the user
        _refuse(whole(key, "a key of the configuration"), whole(text, key))
        _refuse_by_form(key, text)


def _end_for(config: DictConfig) -> None:
    overrides = config.hydra.overrides.task
    try:
        for number, override in enumerate(OmegaConf.to_container(overrides, resolve=False)):
            key, _, value = override.partition("=")
            _refuse(key, str(_value(overrides, number)))
            _refuse_by_form(key.lstrip("+~"), value)
        refuse_credentials(config)
    except UserError as error:
        raise Ended(str(error)) from error


def _refuse(key: str, text: str) -> None:
    for name, value in os.environ.items():
        secret = value.strip()  # a line end behind a key is no part of it
        if NAMED_SECRET.search(name) and len(secret) >= SHORTEST and (secret in text or secret in key):
            place = key if key and secret not in key else "the command line"
            raise UserError(
                f"{place} holds the secret of the environment variable {name}, and a configuration is written to disk; leave it out, "
                "as whatever needs a key reads the environment."
            )


def _refuse_by_form(key: str, value: str) -> None:
    """A secret that is in no environment variable, told by where it stands."""
    if PASSWORD_IN_URL.search(value):
        raise UserError(
            f"{key or 'the command line'} holds a password inside a URL, and a configuration is written to disk; leave it out, and put "
            "a key into OPENAI_API_KEY or another environment variable."
        )
    if SECRET_KEY.search(key) and value.lower() not in NO_SECRETS:
        raise UserError(
            f"{key} is to hold a secret, and a configuration is written to disk; leave it out, as whatever needs a key reads the "
            "environment."
        )


def _leaves(node: object, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of all below `node`. What an interpolation leads to is visited where it stands."""
    if not isinstance(node, (dict, list, DictConfig, ListConfig)):
        yield path, str(node)
        return
    for key in node if isinstance(node, (dict, DictConfig)) else range(len(node)):
        child = _value(node, key)
        if not (isinstance(child, (DictConfig, ListConfig)) and OmegaConf.is_interpolation(node, key)):
            yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _value(node: dict | list | DictConfig | ListConfig, key: object) -> object:
    """None where it is missing, or refers to something that is not there before a job begins."""
    try:
        return node[key]
    except OmegaConfBaseException:
        return None
