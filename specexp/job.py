"""One job, from a composed configuration to a finished run directory: check, instantiate, run, summarise, track, show.

Checks come in the order of their cost: everything that needs no model first, so a mistake is told within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from specexp.errors import UserError

VOLATILE = ("tracker",)  # may differ when a run is resumed: no record depends on it


@dataclass(frozen=True)
class Inputs:
    """What a job has checked and loaded before any weights."""

    pair: object
    dataset: object
    examples: list
    tokenizer: object
    context_length: int | None


def run(config: DictConfig, directory: Path, sweep: str | None, build: Callable) -> float | None:
    """The job of one configuration in one directory; returns the speedup. `build` instantiates a node of the configuration.

    Raises UserError for what the user can put right.
    """
    from specexp.tracking.records import RunDirectory

    _check_numbers(config)
    pair_config = _needed_pair(config)
    _check_missing(config)
    resolved = OmegaConf.to_yaml(config, resolve=True)
    dataset, tracker = build(config.dataset), build(config.tracker)
    build(config.sampling)  # refuses impossible rules before a model is loaded
    with RunDirectory(directory, resolved, exclude=VOLATILE) as run_directory:
        inputs = _prepare(config, build(pair_config), dataset)
        tracker.start(OmegaConf.to_container(config, resolve=True), directory, group=sweep and Path(sweep).name)
        experiment = _experiment(config, inputs, build)
        records = _decode(experiment, inputs.examples, run_directory, config)
        summary = _finish(experiment, records, run_directory, config)
    tracker.finish(summary, records)
    return summary.get("speedup")


def _check_numbers(config: DictConfig) -> None:
    for key in ("samples", "repeats"):
        if config[key] < 1:
            raise UserError(f"{key}={config[key]} is less than 1; give a positive number.")
    if not isinstance(config.max_new_tokens, int) or config.max_new_tokens < 1:
        raise UserError(f"max_new_tokens={config.max_new_tokens} generates nothing; give a positive number.")
    if config.samples > 1 and config.sampling.temperature == 0:
        raise UserError(f"samples={config.samples} at temperature 0 are all the same text; choose sampling=nucleus or sampling=multinomial.")


def _needed_pair(config: DictConfig) -> DictConfig:
    """The pair without its draft when no side's drafter is a model of it."""
    uses_draft = any("${runners.draft}" in OmegaConf.to_yaml(node) for node in (config.method, *config.baselines.values()))
    if not uses_draft:
        config.model_pair.draft = None
    return config.model_pair


def _check_missing(config: DictConfig) -> None:
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]} is not set; give {missing[0]}=VALUE (a model is a directory or a Hub id).")


def _prepare(config: DictConfig, pair, dataset) -> Inputs:
    from specexp.experiment import QUICK_EXAMPLES

    examples = dataset.examples()
    pair.check()
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    limit = QUICK_EXAMPLES if config.quick else None
    return Inputs(pair, dataset, examples[:limit], pair.load_tokenizer(), pair.context_length())


def _experiment(config: DictConfig, inputs: Inputs, build: Callable):
    from specexp.experiment import Experiment
    from specexp.models.tokenizer import stop_ids
    from specexp.stopping import Stopping

    baselines = {"baseline" if name == "eager" else f"baseline_{name}": node.decoder for name, node in config.baselines.items()}
    sides = {name: build(node) for name, node in (baselines | {"method": config.method.decoder}).items()}
    ends = () if config.ignore_eos else stop_ids(sides["method"].target.model, inputs.tokenizer)
    strings = () if config.ignore_eos else inputs.dataset.stop_strings
    return Experiment(
        sides=sides,
        dataset=inputs.dataset,
        tokenizer=inputs.tokenizer,
        stopping=Stopping(inputs.tokenizer, ends, strings),
        max_new_tokens=config.max_new_tokens,
        samples=config.samples,
        repeats=config.repeats,
        warmup=config.warmup,
        seed=config.seed,
        context_length=inputs.context_length,
    )


def _decode(experiment, examples: list, run_directory, config: DictConfig) -> list[dict]:
    from specexp.report.progress import watched

    prompts = experiment.prompts(examples)
    records = run_directory.existing()
    done = {(record["id"], record["sample"]) for record in records}
    total = len(examples) * config.samples
    if len(done) < total:
        experiment.warm_up([prompts[example.id] for example in examples])
    for record in watched(experiment.records(examples, prompts, done), total, len(done), config.method.name):
        run_directory.append(record)
        records.append(record)
    return records


def _finish(experiment, records: list[dict], run_directory, config: DictConfig) -> dict:
    from specexp.evaluation.speed import summarise_speed
    from specexp.experiment import claims, quality_figures
    from specexp.report.table import show
    from specexp.tracking.environment import describe_environment

    names = {key: config[key].name for key in ("model_pair", "method")} | {"dataset": experiment.dataset.name}
    summary = names | claims(experiment.sides["method"]) | quality_figures(experiment.dataset, records)
    summary |= summarise_speed(records, seed=config.seed).figures
    run_directory.write_environment(describe_environment(_facts(experiment, config)))
    run_directory.write_samples(*_sample_lines(experiment, records))
    run_directory.write_summary(summary)
    show(summary, run_directory.path)
    return summary


def _facts(experiment, config: DictConfig) -> dict:
    model = experiment.sides["method"].target.model
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "cache": config.cache["_target_"].rpartition(".")[2],
        "baselines": {name: node.name for name, node in config.baselines.items()},
        "sandbox": getattr(getattr(experiment.dataset, "sandbox", None), "level", None),
    }


def _sample_lines(experiment, records: list[dict]) -> tuple[list[dict], list[dict]]:
    examples = {example.id: example for example in experiment.dataset.examples()}
    return tuple(
        [line for r in records if (line := experiment.dataset.sample_line(examples[r["id"]], r[side]["text"])) is not None]
        for side in ("method", "baseline")
    )
