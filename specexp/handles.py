"""What must hold of a composed configuration before anything is built from it: its handles, its nodes, the parts that this job leaves out.

Knows keys and their values; nothing of models. A value that only a class can judge is judged when that is built.
"""

from __future__ import annotations

import os

from omegaconf import DictConfig, OmegaConf

from specexp.errors import UserError

LEAST = {"max_new_tokens": 1, "samples": 1, "repeats": 1, "warmup": 0, "seed": 0, "threads": 1}  # whole numbers
NODES = ("model_pair", "method", "method.decoder", "dataset", "cache", "sampling", "tracker", "profile", "baseline", "baselines", "runners")
SWITCHES = ("ignore_eos", "quick", "cost_curve")
QUICK_TOKENS = 64


def check(config: DictConfig) -> str:
    """All that can be wrong with the configuration as such; gives it resolved, as YAML text."""
    from specexp.credentials import refuse_credentials
    from specexp.signatures import check_nodes, check_signatures

    check_nodes(config, NODES)
    check_nodes(config, [place for name in config.baselines for place in (f"baselines.{name}", f"baselines.{name}.decoder")])
    check_nodes(config, ["method.decoder.target"] if "target" in config.method.decoder else [])
    _check_handles(config)
    if config.quick:
        config.max_new_tokens = min(config.max_new_tokens, QUICK_TOKENS)
    if decodes_here(config):
        _fit_standins(config)
        _drop_unused_drafts(config)
    else:
        _drop_pair(config)
    if missing := sorted(OmegaConf.missing_keys(config), reverse=True):
        raise UserError(f"not set: {', '.join(missing)}; give each as KEY=VALUE (a model is a directory or a Hub id).")
    check_signatures(config)
    refuse_credentials(OmegaConf.to_container(config, resolve=True))
    return OmegaConf.to_yaml(config, resolve=True)


def _check_handles(config: DictConfig) -> None:
    from specexp.evaluation.sandbox import check_level
    from specexp.signatures import shown

    for key, least in LEAST.items():
        value = config[key]
        if (type(value) is not int or value < least) and not (key == "threads" and value is None):
            raise UserError(f"{key}={shown(value)} does not fit; give a whole number, {least} or more.")
    for key in SWITCHES:
        if type(config[key]) is not bool:
            raise UserError(f"{key}={shown(config[key])} does not fit; give true or false.")
    if (config.threads or 0) > (cores := os.cpu_count() or 1):
        raise UserError(f"threads={config.threads} is more than the {cores} cores of this machine; give {cores} or fewer, or null.")
    check_level(config.sandbox)
    if config.samples > 1 and config.sampling.temperature == 0:
        raise UserError(f"samples={config.samples} at temperature 0 are all the same text; choose sampling=nucleus or another.")
    if config.baseline.url is not None and decodes_here(config):
        raise UserError(f"baseline.url={config.baseline.url} goes with method=endpoint only; leave it out, the baseline decodes here.")
    if config.samples > 1 and not _samples(config):
        raise UserError(f"samples={config.samples} are all the same text, as method={config.method.name} draws nothing; set samples=1.")


def decodes_here(config: DictConfig) -> bool:
    """Whether the method asks models of ours; the models of one that does not are a server's."""
    return "${runners." in OmegaConf.to_yaml(config.method)


def _drop_pair(config: DictConfig) -> None:
    """A server brings its models, and its baseline is another server."""
    config.model_pair = config.runners = config.dtype = config.device = None
    config.baselines, config.captured = {}, None


def _fit_standins(config: DictConfig) -> None:
    """Stand-ins write the tiny pair's ids, which its tables fit, in states of another width than its heads read."""
    if config.model_pair.weights == "standin":
        config.model_pair.tables, config.model_pair.medusa = "tiny", None


def _drop_unused_drafts(config: DictConfig) -> None:
    """Draft models that no side's drafter runs are neither asked for nor loaded; several drafts stand in for the one where used."""
    sides = "".join(OmegaConf.to_yaml(node) for node in (config.method, *config.baselines.values()))
    cascades = "${runners.drafts}" in sides
    if not cascades:
        config.model_pair.drafts, config.runners.drafts = {}, None
    if "${runners.draft}" not in sides and not (cascades and not config.model_pair.drafts):
        config.model_pair.draft = None
    if "${runners.draft}" not in sides:
        config.runners.draft = None


def _samples(config: DictConfig) -> bool:
    """Whether the method draws its tokens by the run's sampling rule; beam search searches instead."""
    return "${sampling}" in OmegaConf.to_yaml(config.method)
