"""Keeps secrets out of what is written: a configuration or a command line that holds one is refused before any file is made.

A secret is the value of an environment variable whose name says so (OPENAI_API_KEY, HF_TOKEN). A secret from elsewhere is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from specexp.errors import Ended, UserError

NAMED_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
SHORTEST = 12  # characters; a shorter value may well stand in a configuration by chance


class RefuseCredentials(Callback):
    """What Hydra calls before it makes the directory of a run or of a sweep, as it writes the configuration there before a job begins.

    Hydra turns whatever a callback raises into a warning, except for the end of the process.
    """

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        _end_for(config)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        _end_for(config)

    def on_job_start(self, config: DictConfig, **_: object) -> None:
        """A choice of a sweep may bring a secret that no override shows. Its job is refused when it begins; what Hydra wrote goes now."""
        try:
            refuse_credentials(config)
        except UserError:
            for file in Path(config.hydra.runtime.output_dir).glob(f"{config.hydra.output_subdir}/*.yaml"):
                file.unlink()


def refuse_arguments(arguments: Sequence[str]) -> None:
    """UserError for an argument of a command line that contains a secret."""
    for argument in arguments:
        _refuse(argument.partition("=")[0], argument)


def refuse_credentials(config: DictConfig) -> None:
    """UserError naming the key whose name or value contains a secret, never the secret itself.

    Each value is looked at as it is written and, where it can be resolved by now, as it is meant.
    """
    leaves = [*_leaves(OmegaConf.to_container(config, resolve=False)), *_leaves(config)]
    for key, text in sorted(leaves, key=lambda leaf: leaf[0].startswith("hydra")):  # Hydra's own keys repeat those of the user
        _refuse(key, text)


def _end_for(config: DictConfig) -> None:
    overrides = config.hydra.overrides.task
    try:
        for number, override in enumerate(OmegaConf.to_container(overrides, resolve=False)):
            _refuse(override.partition("=")[0], str(_value(overrides, number)))
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
