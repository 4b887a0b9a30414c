"""One job, from a checked configuration to a finished run directory: the data are read, the models opened, the prompts decoded and scored,
the records summarised and tracked, and the table shown.

Checks come in the order of their cost: everything that needs no model comes first, so that a mistake is reported within seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from omegaconf import DictConfig, OmegaConf

from specexp.datasets import CHAT, RAW
from specexp.errors import UserError
from specexp.experiment.experiment import Experiment, quality_figures
from specexp.experiment.places import OwnModels, Served, error_figures
from specexp.experiment.supply import decodes_here, read_inputs, sandbox_level
from specexp.figures.cost import bandwidth_utilisation, bound_figures, curve_of
from specexp.figures.record import Record
from specexp.figures.speed import summarise_speed
from specexp.report.table import show, waiting, watched
from specexp.tracking.environment import describe_environment
from specexp.tracking.records import RunDirectory, read_environment, read_object

GO_ON = "the same command with hydra.run.dir=DIR goes on behind the records so far"
VOLATILE = ("tracker", "published", "profile", "cost_curve")  # may differ when a run is resumed: records do not depend on them


def run(config: DictConfig, directory: Path, sweep: str | None, build: Callable) -> float | None:
    """Runs the job of one checked configuration in one directory; returns the speedup. `build` instantiates a node of the configuration.

    A directory that already holds records of this configuration is continued; a finished one only shows its table. Raises UserError for
    what the user can put right.
    """
    inputs, load = read_inputs(config, build), load_per_core()
    with RunDirectory(directory, OmegaConf.to_yaml(config, resolve=True), exclude=VOLATILE) as run_directory:
        _check_same_data(inputs.examples, run_directory)
        summary = _summary_of_finished(run_directory, len(inputs.examples) * config.samples)
        if summary is not None:
            show(summary, directory)
            return summary.get("speedup")
        place = (OwnModels if decodes_here(config) else Served)(config, inputs)
        prompts = place.reader.prompts(inputs.examples)
        _check_same_prompts({example.id: place.reader.seen(example) for example in inputs.examples}, run_directory)
        inputs.tracker.start(OmegaConf.to_container(config, resolve=True), directory, group=sweep and Path(sweep).name)
        with ExitStack() as held, place.guarded(GO_ON):
            experiment = place.open()
            for side in experiment.sides.values():
                held.callback(side.close)
            records = _decode(experiment, place, prompts, run_directory, config)
        place.finish(experiment, records, prompts[inputs.examples[0].id], directory)
        summary = _summarised(experiment, place, records, run_directory, config, max(load, load_per_core()))
    try:
        show(summary, directory)
    finally:  # also where nobody reads the table any more
        inputs.tracker.finish(summary, records)
    return summary.get("speedup")


def _check_same_data(examples: list, run_directory: RunDirectory) -> None:
    """Raises UserError for records that cannot be read, or whose example the data set no longer has. How a chat template renders a
    conversation is not known yet, so of that only the user's last words are compared.
    """
    asked = {example.id: example for example in examples}
    seen = set()
    for number, record in enumerate(run_directory.existing(), 1):
        if (key := (record.id, record.sample)) in seen:
            raise UserError(f"{run_directory.path}/records.jsonl, record {number} is the second of {key[0]}: delete one of the two lines.")
        seen.add(key)
        if record.id not in asked or not _could_be(asked[record.id], record.prompt):
            raise UserError(
                f"{run_directory.path} holds a record of {record.id} whose prompt the data set no longer has; "
                "give back the data or choose another hydra.run.dir=DIR."
            )


def _could_be(example, prompt: str) -> bool:
    return example.messages[-1]["content"].strip() in prompt if example.messages else example.prompt == prompt


def _check_same_prompts(prompts: Mapping[str, str], run_directory: RunDirectory) -> None:
    """Raises UserError for a record whose prompt is rendered otherwise now."""
    for record in run_directory.existing():
        if prompts[record.id] != record.prompt:
            raise UserError(
                f"{run_directory.path} holds a record of {record.id} whose prompt the chat template writes otherwise now; give back the "
                "template and its arguments (a date that it writes by itself too), or choose another hydra.run.dir=DIR."
            )


def _summary_of_finished(run_directory: RunDirectory, wanted: int) -> dict | None:
    """The summary of a finished run; None while any record is missing."""
    file = run_directory.path / "summary.json"
    return read_object(file) if file.is_file() and len(run_directory.existing()) >= wanted else None


def _decode(experiment: Experiment, place, prompts: dict, run_directory: RunDirectory, config: DictConfig) -> list[Record]:
    """Decodes what is missing. Every record is on disk before the next text begins."""
    examples = place.inputs.examples
    facts = {"sandbox": sandbox_level(place.inputs.dataset), "prompts_digest": _digest(examples)}
    environment, curve = describe_environment(place.facts() | facts), None
    records = run_directory.existing()
    done = {(record.id, record.sample) for record in records}
    total = len(examples) * config.samples
    if len(done) < total:
        in_order = [prompts[example.id] for example in examples]
        began = perf_counter()
        with waiting("checking the models"):
            place.reader.check(in_order[0])
        environment |= {"check_seconds": perf_counter() - began}
        with waiting("warming up"):
            experiment.warm_up(in_order)
        if config.cost_curve and config.warmup:
            with waiting("measuring what passes of several widths take"):
                curve = place.cost_curve(in_order)
    run_directory.write_environment(environment | {"cost_curve": curve and curve.record()})
    for record in watched(experiment.records(examples, prompts, done), total, len(done), config.method.name):
        run_directory.append(record)
        records.append(record)
    return records


def _digest(examples: Sequence) -> str:
    """Tells prompts from others of a data set of the same name."""
    prompts = repr([(example.id, example.prompt, example.messages) for example in examples])
    return sha256(prompts.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def load_per_core() -> float:
    """How many processes per core wanted to run in the last minute, this one among them."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _summarised(
    experiment: Experiment, place, records: list[Record], run_directory: RunDirectory, config: DictConfig, load: float
) -> dict:
    dataset = place.inputs.dataset
    summary = place.figures(records) | error_figures(experiment)
    summary |= {"method": config.method.name, "dataset": dataset.name, "weights": experiment.weights}
    summary |= {"prompt_format": CHAT if place.inputs.examples[0].messages else RAW}
    summary |= {"max_new_tokens": config.max_new_tokens, "max_cache_len": config.cache.get("max_length")}
    summary |= {"temperature": place.inputs.sampling.temperature, "load_per_core": load}
    summary |= {"sandbox": level} if (level := sandbox_level(dataset)) else {}
    with waiting("scoring"):
        summary |= quality_figures(dataset, records)
    summary |= summarise_speed(records)
    curve = curve_of(read_environment(run_directory.path))
    summary |= bound_figures(records, curve) | {"mbu": bandwidth_utilisation(curve)}
    run_directory.write_samples(*(_sample_lines(dataset, place.inputs.examples, records, side) for side in ("method", "baseline")))
    run_directory.write_summary(summary)
    return summary


def _sample_lines(dataset, examples: list, records: Sequence[Record], side: str) -> list[dict]:
    """The texts of one side in HumanEval's form; no lines for a side that did not run and for data that is not code."""
    by_id = {example.id: example for example in examples}
    lines = [dataset.sample_line(by_id[record.id], record.sides[side].text) for record in records if side in record.sides]
    return [line for line in lines if line is not None]
