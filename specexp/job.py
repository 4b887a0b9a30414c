"""One job, from a composed configuration to a finished run directory: check, instantiate, run, summarise, track, show.

Checks come in the order of their cost: everything that needs no model first, so a mistake is told within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from specexp.errors import UserError

VOLATILE = ("tracker", "profile", "cost_curve")  # may differ when a run is resumed: no record depends on it
LEAST = {"max_new_tokens": 1, "samples": 1, "repeats": 1, "warmup": 0, "seed": 0, "threads": 1}  # whole numbers
SWITCHES = ("ignore_eos", "quick", "cost_curve")


@dataclass(frozen=True)
class Inputs:
    """What a job has checked and read before any weights."""

    pair: object
    dataset: object
    examples: list
    tracker: object
    profile: object
    cache: object


def run(config: DictConfig, directory: Path, sweep: str | None, build: Callable) -> float | None:
    """The job of one configuration in one directory; returns the speedup. `build` instantiates a node of the configuration.

    A directory that holds records of this configuration is gone on with; a finished one only shows its table.
    Raises UserError for what the user can put right.
    """
    from specexp.report.table import show
    from specexp.tracking.records import RunDirectory

    resolved = _check(config)
    inputs = _inputs(config, build)
    with RunDirectory(directory, resolved, exclude=VOLATILE) as run_directory:
        _check_same_data(inputs.examples, run_directory)
        summary = _summary_of_finished(run_directory, len(inputs.examples) * config.samples)
        if summary is not None:
            show(summary, directory)
            return summary.get("speedup")
        planned = _planned(config, inputs)
        prompts = planned.prompts(inputs.examples)
        inputs.tracker.start(OmegaConf.to_container(config, resolve=True), directory, group=sweep and Path(sweep).name)
        experiment = _with_decoders(planned, config, build)
        records = _decode(experiment, inputs.examples, prompts, run_directory, config, build)
        summary = _finish(experiment, inputs.examples, records, run_directory, config)
        inputs.profile.write(experiment.sides["method"], prompts[inputs.examples[0].id], config.max_new_tokens, directory)
    show(summary, directory)
    inputs.tracker.finish(summary, records)
    return summary.get("speedup")


def _check(config: DictConfig) -> str:
    """All that can be wrong with the configuration as such; gives it resolved, as YAML text."""
    from specexp.signatures import check_signatures

    _check_handles(config)
    _fit_standins(config)
    _drop_unused_drafts(config)
    if missing := sorted(OmegaConf.missing_keys(config), reverse=True):
        raise UserError(f"not set: {', '.join(missing)}; give each as KEY=VALUE (a model is a directory or a Hub id).")
    check_signatures(config)
    return OmegaConf.to_yaml(config, resolve=True)


def _check_handles(config: DictConfig) -> None:
    from specexp.signatures import shown

    for key, least in LEAST.items():
        value = config[key]
        if (type(value) is not int or value < least) and not (key == "threads" and value is None):
            raise UserError(f"{key}={shown(value)} does not fit; give a whole number, {least} or more.")
    for key in SWITCHES:
        if type(config[key]) is not bool:
            raise UserError(f"{key}={shown(config[key])} does not fit; give true or false.")
    if config.samples > 1 and config.sampling.temperature == 0:
        raise UserError(f"samples={config.samples} at temperature 0 are all the same text; choose sampling=nucleus or another.")
    if config.samples > 1 and not _samples(config):
        raise UserError(f"samples={config.samples} are all the same text, as method={config.method.name} draws nothing; set samples=1.")


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


def _inputs(config: DictConfig, build: Callable) -> Inputs:
    from specexp.experiment import QUICK_EXAMPLES

    dataset, tracker, profile, pair = (build(config[group]) for group in ("dataset", "tracker", "profile", "model_pair"))
    parts = [node for node in config.method.values() if isinstance(node, DictConfig) and "_target_" in node]
    for node in (config.sampling, *parts, *(side.decoder for side in config.baselines.values())):
        _try_parts(node, build)
    examples = dataset.examples()[: QUICK_EXAMPLES if config.quick else None]
    return Inputs(pair, dataset, examples, tracker, profile, build(config.cache))


def _try_parts(node: DictConfig, build: Callable) -> None:
    """Build what needs no model, for what its constructor refuses: minutes earlier than beside the weights."""
    if "${runners." not in OmegaConf.to_yaml(node):
        build(node)
        return
    for key in node:
        if not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            _try_parts(node[key], build)


def _check_same_data(examples: list, run_directory) -> None:
    prompts = {example.id: example.prompt for example in examples}
    for record in run_directory.existing():
        if prompts.get(record["id"]) != record["prompt"]:
            raise UserError(
                f"{run_directory.path} holds a record of {record['id']} whose prompt the data set no longer has; "
                "give back the data or choose another hydra.run.dir=DIR."
            )


def _summary_of_finished(run_directory, wanted: int) -> dict | None:
    """None while there is anything left to do."""
    from specexp.tracking.jsonl import read_object

    file = run_directory.path / "summary.json"
    return read_object(file) if file.is_file() and len(run_directory.existing()) >= wanted else None


def _planned(config: DictConfig, inputs: Inputs):
    """The experiment without its decoders: what it needs beside the weights is found wanting before they are loaded."""
    from specexp.experiment import Experiment
    from specexp.stopping import Stopping

    inputs.pair.check()
    _set_threads(config.threads)
    tokenizer = inputs.pair.load_tokenizer()
    handles = {key: config[key] for key in ("max_new_tokens", "samples", "repeats", "warmup", "seed")}
    handles["weights"] = config.model_pair.weights
    never = Stopping(tokenizer, (), ())
    return Experiment({}, inputs.dataset, tokenizer, never, context_length=inputs.pair.longest_text(inputs.cache), **handles)


def _with_decoders(planned, config: DictConfig, build: Callable):
    from specexp.models.tokenizer import stop_ids
    from specexp.stopping import Stopping

    baselines = {"baseline" if name == "eager" else f"baseline_{name}": node.decoder for name, node in config.baselines.items()}
    sides = {name: build(node) for name, node in (baselines | {"method": config.method.decoder}).items()}
    if config.ignore_eos:
        return replace(planned, sides=sides)
    ends = stop_ids(sides["method"].target.model, planned.tokenizer)
    return replace(planned, sides=sides, stopping=Stopping(planned.tokenizer, ends, planned.dataset.stop_strings))


def _set_threads(threads: int | None) -> None:
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

    environment, curve = describe_environment(_facts(experiment, config)), None
    records = run_directory.existing()
    done = {(record["id"], record["sample"]) for record in records}
    total = len(examples) * config.samples
    if len(done) < total:
        experiment.warm_up([prompts[example.id] for example in examples])
        curve = _cost_curve(experiment, [prompts[example.id] for example in examples], config, build)
    run_directory.write_environment(environment | {"cost_curve": curve and curve.record()})
    for record in watched(experiment.records(examples, prompts, done), total, len(done), config.method.name):
        run_directory.append(record)
        records.append(record)
    return records


def _cost_curve(experiment, prompts: list, config: DictConfig, build: Callable):
    """None where it is not wanted: measuring it is a warm-up too."""
    from specexp.pass_timing import measured_curve
    from specexp.report.progress import waiting

    if not config.cost_curve or not config.warmup:
        return None
    with waiting("measuring what passes of several widths take"):
        return measured_curve(experiment.sides, prompts, config.max_new_tokens, build(config.sampling))


def _finish(experiment, examples: list, records: list[dict], run_directory, config: DictConfig) -> dict:
    from specexp.evaluation.speed import summarise_speed
    from specexp.evaluation.swi import swi_figures
    from specexp.experiment import claims, quality_figures

    names = {key: config[key].name for key in ("model_pair", "method")} | {"dataset": experiment.dataset.name}
    summary = names | {"weights": experiment.weights} | claims(experiment.sides["method"]) | quality_figures(experiment.dataset, records)
    summary |= summarise_speed(records, seed=config.seed).figures | _bounds(records, run_directory)
    summary |= swi_figures([record["method"] for record in records], _costs(experiment, config))
    run_directory.write_samples(*(_sample_lines(experiment.dataset, examples, records, side) for side in ("method", "baseline")))
    run_directory.write_summary(summary)
    return summary


def _bounds(records: list[dict], run_directory) -> dict:
    """What other draft lengths would have gained, and how much of the memory's bandwidth is used; from the directory alone."""
    from specexp.evaluation.bounds import bandwidth_utilisation, bound_figures
    from specexp.evaluation.cost_curve import curve_of
    from specexp.tracking.records import read_environment

    curve = curve_of(read_environment(run_directory.path))
    return bound_figures(records, curve) | {"mbu": bandwidth_utilisation(curve)}


def _costs(experiment, config: DictConfig) -> dict[str, dict[str, float]]:
    """What a pass of each model costs: by number of parameters, and as the pair's own tables say."""
    method = experiment.sides["method"]
    models = {"target": method.target} | dict(method.drafter.models)
    parameters = {name: runner.model.num_parameters() for name, runner in models.items()}
    return {"model_parameters": parameters} | OmegaConf.to_container(config.model_pair.costs, resolve=True)


def _facts(experiment, config: DictConfig) -> dict:
    model = experiment.sides["method"].target.model
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "cache": config.cache["_target_"].rpartition(".")[2],
        "weights": experiment.weights,
        "shapes": _shapes(config),
        "baselines": {name: node.name for name, node in config.baselines.items()},
        "peers": _peers(config),
        "costs": _costs(experiment, config),
        "sandbox": getattr(getattr(experiment.dataset, "sandbox", None), "level", None),
    }


def _shapes(config: DictConfig) -> dict[str, object] | None:
    """Of stand-ins, which are Llamas whatever the named models are."""
    if config.model_pair.weights == "real":
        return None
    pair = OmegaConf.to_container(config.model_pair, resolve=True)
    models = {name: pair[name] for name in ("target", "draft") if pair[name]} | pair["drafts"]
    return {name: {"architecture": "llama"} | {k: v for k, v in model["shape"].items() if k[0] != "_"} for name, model in models.items()}


def _peers(config: DictConfig) -> dict[str, dict]:
    """The settings of each side that is another engine's, by side."""
    sides = {"method": config.method, **config.baselines}
    peers = {name: node for name, node in sides.items() if node.decoder["_target_"].startswith("specexp.peers.")}
    return {name: {key: node[key] for key in node if key not in ("name", "decoder")} for name, node in peers.items()}


def _sample_lines(dataset, examples: list, records: list[dict], side: str) -> list[dict]:
    """HumanEval's form of one side's texts; nothing for a side that did not run and for data that is no code."""
    by_id = {example.id: example for example in examples}
    lines = [dataset.sample_line(by_id[record["id"]], record[side]["text"]) for record in records if side in record]
    return [line for line in lines if line is not None]
