"""Every file under conf/, and a test of whether its keys fit the signature that it names."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from specexp import methods
from specexp.cli.messages import conf_directory
from specexp.experiment.supply import LABEL, asked

CONF = Path(conf_directory())

OPTIONS = sorted(
    (str(file.parent.relative_to(CONF)), file.stem)
    for file in CONF.rglob("*.yaml")
    if file.parent != CONF and not file.stem.startswith("_")
)

def nodes(config, path=""):
    """All nodes that name a class or function, with their dotted path."""
    if isinstance(config, DictConfig):
        if "_target_" in config:
            yield path, config
        for key in config:
            if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
                yield from nodes(config[key], f"{path}.{key}")


def check_signatures(config):
    """Fails the test for a call that lacks something or has too much. A method's lacks what a job supplies, and its label is no argument."""
    for path, node in nodes(config):
        arguments = {key: None for key in node if not key.startswith("_")}
        if get_object(node["_target_"]).__module__ == methods.__name__:
            arguments.pop(LABEL, None)
            arguments |= dict.fromkeys(asked(node))
        signature = inspect.signature(get_object(node["_target_"]))
        bind = signature.bind_partial if node.get("_partial_") else signature.bind
        try:
            bind(**arguments)
        except TypeError as error:
            pytest.fail(f"{path} ({node['_target_']}): {error}")
