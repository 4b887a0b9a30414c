"""One job, from a composed configuration to a finished run directory: check, instantiate, run, summarise, track, show.

Checks come in the order of their cost: everything that needs no model first, so a mistake is told within seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from specexp.errors import UserError
from specexp.experiment.facts import bounds, facts, own_figures, sandbox_level
from specexp.experiment.sides import Supply, arguments_of, decodes_here, methods_of, rehearse, supplied

logger = logging.getLogger(__name__)
GO_ON = "the same command with hydra.run.dir=DIR goes on behind the records so far"
VOLATILE = ("tracker", "published", "profile", "cost_curve")  # may differ when a run is resumed: no record depends on it


@dataclass(frozen=True)
class Inputs:
    """What a job has checked and read before any weights."""

    pair: object
    dataset: object
    examples: list
    tracker: object
    profile: object
    sampling: object
    cache: object
    captured_cache: object
    methods: dict[str, Callable]  # by side, each lacking what is supplied


def run(config: DictConfig, directory: Path, sweep: str | None, build: Callable) -> float | None:
    """The job of one configuration in one directory; returns the speedup. `build` instantiates a node of the configuration.

    A directory that holds records of this configuration is gone on with; a finished one only shows its table.
    Raises UserError for what the user can put right.
    """
    from specexp.models.loading import memory_watched
    from specexp.report.table import show
    from specexp.tracking.records import RunDirectory

    inputs = _inputs(config, build)
    with RunDirectory(directory, OmegaConf.to_yaml(config, resolve=True), exclude=VOLATILE) as run_directory:
        _check_same_data(inputs.examples, run_directory)
        summary = _summary_of_finished(run_directory, len(inputs.examples) * config.samples)
        if summary is not None:
            show(summary, directory)
            return summary.get("speedup")
        planned = _planned(config, inputs, build)
        prompts = planned.prompts(inputs.examples)
        inputs.tracker.start(OmegaConf.to_container(config, resolve=True), directory, group=sweep and Path(sweep).name)
        with memory_watched(f"lower max_new_tokens={config.max_new_tokens}, give dtype=bfloat16 or smaller models; {GO_ON}"):
            experiment = _with_decoders(planned, inputs, config, build)
            records = _decode(experiment, inputs.examples, prompts, run_directory, config, build)
        summary = _finish(experiment, inputs.examples, records, run_directory, config)
        if decodes_here(config):
            inputs.profile.write(experiment.sides["method"], prompts[inputs.examples[0].id], config.max_new_tokens, inputs.sampling, directory)
    show(summary, directory)
    inputs.tracker.finish(summary, records)
    return summary.get("speedup")


def _inputs(config: DictConfig, build: Callable) -> Inputs:
    from specexp.datasets.example import part_of
    from specexp.experiment.experiment import QUICK_EXAMPLES

    dataset, tracker, profile, pair = (build(config[group]) for group in ("dataset", "tracker", "profile", "model_pair"))
    if level := sandbox_level(dataset):
        logger.info("model-written code is judged in the sandbox at level %s", level)
    sampling, cache, captured_cache = (build(config[group]) for group in ("sampling", "cache", "captured_cache"))
    methods = {name: build(arguments_of(node)) for name, node in methods_of(config).items()}
    for method in methods.values():
        rehearse(method, pair, sampling)
    examples = part_of(dataset.examples(), config.part)[: QUICK_EXAMPLES if config.quick else None]
    return Inputs(pair, dataset, examples, tracker, profile, sampling, cache, captured_cache, methods)


def _check_same_data(examples: list, run_directory) -> None:
    prompts = {example.id: example.prompt for example in examples}
    seen = set()
    for number, record in enumerate(run_directory.existing(), 1):
        if missing := [key for key in ("id", "sample", "prompt", "method") if key not in record]:
            raise UserError(f"{run_directory.path}/records.jsonl, record {number} lacks {missing[0]}: mend or delete that line.")
        if (key := (record["id"], record["sample"])) in seen:
            raise UserError(f"{run_directory.path}/records.jsonl, record {number} is the second of {key[0]}: delete one of the two lines.")
        seen.add(key)
        if prompts.get(record["id"]) != record["prompt"]:
            raise UserError(
                f"{run_directory.path} holds a record of {record['id']} whose prompt the data set no longer has; "
                "give back the data or choose another hydra.run.dir=DIR."
            )


def _summary_of_finished(run_directory, wanted: int) -> dict | None:
    """None while there is anything left to do."""
    from specexp.tracking.records import read_object

    file = run_directory.path / "summary.json"
    return read_object(file) if file.is_file() and len(run_directory.existing()) >= wanted else None


def _planned(config: DictConfig, inputs: Inputs, build: Callable):
    """The experiment without its decoders: what it needs beside the weights is found wanting before they are loaded."""
    from specexp.experiment.experiment import Experiment
    from specexp.text.stopping import Stopping

    handles = {key: config[key] for key in ("max_new_tokens", "samples", "repeats", "warmup", "seed")}
    if not decodes_here(config):
        return _planned_remote(config, inputs, build, handles)
    inputs.pair.check()
    set_threads(config.threads)
    tokenizer = inputs.pair.load_tokenizer()
    handles |= {"weights": config.model_pair.weights, "sampling": inputs.sampling}
    never = Stopping(tokenizer, (), ())
    return Experiment({}, inputs.dataset, tokenizer, never, context_length=inputs.pair.longest_text(inputs.cache), **handles)


def _planned_remote(config: DictConfig, inputs: Inputs, build: Callable, handles: dict):
    from specexp.experiment.remote import RemoteExperiment

    sides = {"method": inputs.methods["method"]()}
    if config.baseline.url is not None:
        sides["baseline"] = replace(sides["method"], **OmegaConf.to_container(config.baseline))
    return RemoteExperiment(sides, inputs.dataset, sampling=inputs.sampling, ignore_eos=config.ignore_eos, **handles)


def _with_decoders(planned, inputs: Inputs, config: DictConfig, build: Callable):
    if not decodes_here(config):
        planned.connect()
        return planned
    from specexp.models.tokenizer import stop_ids
    from specexp.text.stopping import Stopping

    supply = Supply(inputs.pair, inputs.cache, inputs.captured_cache)
    sides = {name: supplied(method, supply) for name, method in inputs.methods.items()}
    if _joins_captured(sides):
        sides["baseline_captured"] = supplied(build(arguments_of(config.captured)), supply)
    if config.ignore_eos:
        return replace(planned, sides=sides)
    ends = stop_ids(sides["method"].target.model, planned.tokenizer)
    return replace(planned, sides=sides, stopping=Stopping(planned.tokenizer, ends, planned.dataset.stop_strings))


def _joins_captured(sides: dict) -> bool:
    """On CUDA a loop without captured graphs is no honest measure of what autoregressive decoding can do."""
    import torch

    from specexp.runners.static import StaticRunner

    target = sides["method"].target
    captured = "baseline_captured" in sides or target.facts.kind == "static" or not target.facts.cache_exact
    return torch.device(target.facts.device).type == "cuda" and not captured and StaticRunner.fits(target.model)


def set_threads(threads: int | None) -> None:
    """A later job of the sweep that asks for no number gets torch's own again."""
    import torch

    torch.set_num_threads(_default_threads() if threads is None else threads)


@cache
def _default_threads() -> int:
    import torch

    return torch.get_num_threads()


def _decode(experiment, examples: list, prompts: dict, run_directory, config: DictConfig, build: Callable) -> list[dict]:
    from specexp.report.progress import watched
    from specexp.tracking.environment import describe_environment

    environment, curve = describe_environment(facts(experiment, config) if decodes_here(config) else experiment.facts()), None
    records = run_directory.existing()
    done = {(record["id"], record["sample"]) for record in records}
    total = len(examples) * config.samples
    if len(done) < total:
        experiment.check_models(prompts[examples[0].id])
        experiment.warm_up([prompts[example.id] for example in examples])
        curve = _cost_curve(experiment, [prompts[example.id] for example in examples], config, build)
    run_directory.write_environment(environment | {"cost_curve": curve and curve.record()})
    for record in watched(experiment.records(examples, prompts, done), total, len(done), config.method.name):
        run_directory.append(record)
        records.append(record)
    return records


def _cost_curve(experiment, prompts: list, config: DictConfig, build: Callable):
    """None where it is not wanted: measuring it is a warm-up too."""
    from specexp.experiment.pass_timing import measured_curve
    from specexp.report.progress import waiting

    if not config.cost_curve or not config.warmup or not decodes_here(config):
        return None
    with waiting("measuring what passes of several widths take"):
        return measured_curve(experiment.sides, prompts, config.max_new_tokens, build(config.sampling))


def _finish(experiment, examples: list, records: list[dict], run_directory, config: DictConfig) -> dict:
    from specexp.experiment.experiment import quality_figures
    from specexp.figures.speed import summarise_speed

    if not decodes_here(config):
        experiment.conclude(records, run_directory.path)
    own = own_figures(experiment, records, config) if decodes_here(config) else experiment.figures(records)
    summary = own | {"method": config.method.name, "dataset": experiment.dataset.name, "weights": experiment.weights}
    summary |= {"max_new_tokens": config.max_new_tokens, "max_cache_len": config.cache.get("max_length")}
    summary |= {"sandbox": level} if (level := sandbox_level(experiment.dataset)) else {}
    summary |= quality_figures(experiment.dataset, records) | summarise_speed(records, seed=config.seed).figures
    summary |= bounds(records, run_directory)
    run_directory.write_samples(*(_sample_lines(experiment.dataset, examples, records, side) for side in ("method", "baseline")))
    run_directory.write_summary(summary)
    return summary


def _sample_lines(dataset, examples: list, records: list[dict], side: str) -> list[dict]:
    """HumanEval's form of one side's texts; nothing for a side that did not run and for data that is no code."""
    by_id = {example.id: example for example in examples}
    lines = [dataset.sample_line(by_id[record["id"]], record[side]["text"]) for record in records if side in record]
    return [line for line in lines if line is not None]
