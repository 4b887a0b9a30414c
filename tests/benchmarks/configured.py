"""Decoders as a job builds them, by a composed configuration."""

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from specexp.cli.messages import conf_directory
from specexp.experiment.supply import Supply, arguments_of, supplied


def composed(*overrides):
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def decoder_of(config, node=None):
    """node: of one of its methods; the method itself by default."""
    supply = Supply(*(instantiate(config[group]) for group in ("model_pair", "cache", "captured_cache")))
    return supplied(instantiate(arguments_of(config.method if node is None else node)), supply)
