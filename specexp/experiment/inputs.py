"""What a job has checked and read before any weights are loaded: data set, examples, and the methods tried out without models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from omegaconf import DictConfig

from specexp.datasets.example import part_of
from specexp.decoding.sampling import Sampling
from specexp.experiment.experiment import QUICK_EXAMPLES
from specexp.experiment.supply import arguments_of, methods_of, rehearse
from specexp.models.pair import ModelPair

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """pair: None where a server decodes. methods: by side, each a call that lacks what is supplied. build: instantiates a node."""

    pair: ModelPair | None
    dataset: object
    examples: list
    tracker: object
    profile: object
    sampling: Sampling
    cache: Callable
    captured_cache: Callable | None
    methods: dict[str, Callable]
    build: Callable


def read_inputs(config: DictConfig, build: Callable) -> Inputs:
    """In the order of their cost. UserError for what the user can put right."""
    dataset, tracker, profile, pair = (build(config[group]) for group in ("dataset", "tracker", "profile", "model_pair"))
    if level := sandbox_level(dataset):
        logger.info("model-written code is judged in the sandbox at level %s", level)
    sampling, cache, captured_cache = (build(config[group]) for group in ("sampling", "cache", "captured_cache"))
    methods = {name: build(arguments_of(node)) for name, node in methods_of(config).items()}
    for method in methods.values():
        rehearse(method, pair, sampling)
    examples = part_of(dataset.examples(), config.part)[: QUICK_EXAMPLES if config.quick else None]
    return Inputs(pair, dataset, examples, tracker, profile, sampling, cache, captured_cache, methods, build)


def sandbox_level(dataset: object) -> str | None:
    """Where model-written code is run; None where the data set runs none."""
    return dataset.sandbox.level if hasattr(dataset, "sandbox") else None
