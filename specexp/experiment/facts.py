"""What a job knows of itself besides its records: what ran, on what, and what its passes cost. For summary.json and environment.json.

Knows the configuration and the experiment's sides; computes no figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from specexp.experiment.sides import LABEL, methods_of
from specexp.peers.loops import PeerLoop


def own_figures(experiment, records: Sequence[dict], config: DictConfig) -> dict:
    """What is known of models that ran here: what they are, and what their passes cost."""
    from specexp.experiment.experiment import claims
    from specexp.figures.cost import swi_figures

    costs = swi_figures([record["method"] for record in records], _costs(experiment, config))
    return {"model_pair": config.model_pair.name} | claims(experiment.sides["method"]) | costs


def bounds(records: Sequence[dict], run_directory) -> dict:
    """What other draft lengths would have gained, and how much of the memory's bandwidth is used; from the directory alone."""
    from specexp.figures.bounds import bandwidth_utilisation, bound_figures
    from specexp.figures.cost import curve_of
    from specexp.tracking.records import read_environment

    curve = curve_of(read_environment(run_directory.path))
    return bound_figures(records, curve) | {"mbu": bandwidth_utilisation(curve)}


def _costs(experiment, config: DictConfig) -> dict[str, dict[str, float]]:
    """What a pass of each model costs: by number of parameters, and as the pair's own tables say."""
    method = experiment.sides["method"]
    models = {"target": method.target} | dict(method.drafter.models)
    parameters = {name: runner.model.num_parameters() for name, runner in models.items()}
    return {"model_parameters": parameters} | OmegaConf.to_container(config.model_pair.costs, resolve=True)


def facts(experiment, config: DictConfig) -> dict:
    model = experiment.sides["method"].target.model
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "cache": experiment.sides["method"].target.facts.kind,
        "weights": experiment.weights,
        "shapes": _shapes(config),
        "baselines": _baselines(experiment, config),
        "peers": _peers(experiment, config),
        "costs": _costs(experiment, config),
        "sandbox": sandbox_level(experiment.dataset),
    }


def _baselines(experiment, config: DictConfig) -> dict[str, str]:
    """Those of the configuration, and one that joined by itself."""
    joined = "baseline_captured" in experiment.sides and "captured" not in config.baselines
    return {name: node.name for name, node in config.baselines.items()} | ({"captured": config.captured.name} if joined else {})


def sandbox_level(dataset) -> str | None:
    """Where model-written code is run; None where the data set runs none."""
    return dataset.sandbox.level if hasattr(dataset, "sandbox") else None


def _shapes(config: DictConfig) -> dict[str, object] | None:
    """Of stand-ins, which are Llamas whatever the named models are."""
    if config.model_pair.weights == "real":
        return None
    pair = OmegaConf.to_container(config.model_pair, resolve=True)
    models = {name: pair[name] for name in ("target", "draft") if pair[name]} | pair["drafts"]
    return {name: {"architecture": "llama"} | {k: v for k, v in model["shape"].items() if k[0] != "_"} for name, model in models.items()}


def _peers(experiment, config: DictConfig) -> dict[str, dict]:
    """The settings of each side that is another maker's loop, by side."""
    peers = {side: node for side, node in methods_of(config).items() if isinstance(experiment.sides.get(side), PeerLoop)}
    return {side: {key: value for key, value in node.items() if key not in ("_target_", LABEL)} for side, node in peers.items()}
