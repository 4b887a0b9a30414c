"""Where a job decodes with models in this process: what must hold before weights are loaded, the sides over them, and what is known of
them in the end. (served.py is its counterpart, where a server decodes.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from specexp.experiment.experiment import Experiment
from specexp.experiment.pass_timing import measured_curve
from specexp.experiment.readers import OwnTexts
from specexp.experiment.sides import DecoderSide
from specexp.experiment.supply import LABEL, Inputs, Supply, arguments_of, methods_of, supplied
from specexp.figures.cost import CostCurve, swi_figures
from specexp.figures.record import Record
from specexp.models.loading import memory_watched, set_threads
from specexp.models.pair import stop_ids
from specexp.peers.loops import PeerLoop
from specexp.runners.static import StaticRunner
from specexp.text.stopping import Stopping


class OwnModels:
    """config: checked. inputs: what was read before any weights."""

    def __init__(self, config: DictConfig, inputs: Inputs):
        """Everything but the weights: UserError where the pair cannot be had or does not fit together."""
        self.config, self.inputs = config, inputs
        inputs.pair.check()
        inputs.pair.release_others()
        set_threads(config.threads)
        tokenizer = inputs.pair.load_tokenizer()
        longest = inputs.pair.longest_text(inputs.cache)
        self.reader = OwnTexts(inputs.dataset, tokenizer, Stopping(tokenizer, (), ()), config.max_new_tokens, longest)

    def guarded(self, way_out: str):
        """Around everything that needs memory: running out of it becomes a sentence."""
        config = self.config
        return memory_watched(f"lower max_new_tokens={config.max_new_tokens}, give dtype=bfloat16 or smaller models; {way_out}")

    def open(self) -> Experiment:
        """With its weights loaded."""
        config, inputs = self.config, self.inputs
        supply = Supply(inputs.pair, inputs.cache, inputs.captured_cache)
        self.decoders = {name: supplied(method, supply) for name, method in inputs.methods.items()}
        if _joins_captured(self.decoders):
            self.decoders["baseline_captured"] = supplied(inputs.build(arguments_of(config.captured)), supply)
        target = self.decoders["method"].target.model
        if not config.ignore_eos:
            tokenizer = self.reader.tokenizer
            self.reader.stop = Stopping(tokenizer, stop_ids(target, tokenizer), inputs.dataset.stop_strings)
        self.reader.models = {"target": target} | {
            role: runner.model for decoder in self.decoders.values() for role, runner in decoder.drafter.models.items()
        }
        sides = {name: DecoderSide(decoder, inputs.sampling) for name, decoder in self.decoders.items()}
        handles = {key: config[key] for key in ("max_new_tokens", "samples", "repeats", "warmup", "seed")}
        return Experiment(sides, self.reader, weights=config.model_pair.weights, **handles)

    def cost_curve(self, prompts: Sequence[list[int]]) -> CostCurve | None:
        """What passes of several widths take; measuring it is a warm-up too."""
        return measured_curve(self.decoders, prompts, self.config.max_new_tokens, self.inputs.sampling)

    def facts(self) -> dict[str, object]:
        """For environment.json."""
        config, model = self.config, self.decoders["method"].target.model
        return {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "cache": self.decoders["method"].target.facts.kind,
            "weights": config.model_pair.weights,
            "shapes": _shapes(config),
            "baselines": self._baselines(),
            "peers": self._peers(),
            "costs": self._costs(),
        }

    def figures(self, records: Sequence[Record]) -> dict[str, object]:
        """For summary.json: what the models are, and what their passes cost."""
        costs = swi_figures([record.sides["method"].to_json() for record in records], self._costs())
        claims = DecoderSide(self.decoders["method"], self.inputs.sampling).facts()
        return {"model_pair": self.config.model_pair.name} | claims | costs

    def finish(self, experiment: Experiment, records: Sequence[Record], prompt: list[int], directory: Path) -> None:
        """What a run leaves beside its records: a profile, where one is wanted."""
        self.inputs.profile.write(self.decoders["method"], prompt, self.config.max_new_tokens, self.inputs.sampling, directory)

    def _costs(self) -> dict[str, dict[str, float]]:
        """What a pass of each model costs: by number of parameters, and as the pair's own tables say."""
        method = self.decoders["method"]
        models = {"target": method.target} | dict(method.drafter.models)
        parameters = {name: runner.model.num_parameters() for name, runner in models.items()}
        return {"model_parameters": parameters} | OmegaConf.to_container(self.config.model_pair.costs, resolve=True)

    def _baselines(self) -> dict[str, str]:
        """Those of the configuration, and one that joined by itself."""
        joined = "baseline_captured" in self.decoders and "captured" not in self.config.baselines
        named = {name: node[LABEL] for name, node in self.config.baselines.items()}
        return named | ({"captured": self.config.captured[LABEL]} if joined else {})

    def _peers(self) -> dict[str, dict]:
        """The settings of each side that is another maker's loop, by the names that the configuration gives to them."""
        named = zip(("method", *self.config.baselines), methods_of(self.config).items(), strict=True)
        peers = {name: node for name, (side, node) in named if isinstance(self.decoders[side], PeerLoop)}
        return {name: {key: value for key, value in node.items() if key not in ("_target_", LABEL)} for name, node in peers.items()}


def _joins_captured(decoders: dict) -> bool:
    """On CUDA a loop without captured graphs is no honest measure of what autoregressive decoding can do."""
    target = decoders["method"].target
    captured = "baseline_captured" in decoders or target.facts.kind == "static" or not target.facts.cache_exact
    return torch.device(target.facts.device).type == "cuda" and not captured and StaticRunner.fits(target.model)


def _shapes(config: DictConfig) -> dict[str, object] | None:
    """Of stand-ins, which are Llamas whatever the named models are."""
    if config.model_pair.weights == "real":
        return None
    pair = OmegaConf.to_container(config.model_pair, resolve=True)
    models = {name: pair[name] for name in ("target", "draft") if pair[name]} | pair["drafts"]
    return {name: {"architecture": "llama"} | {k: v for k, v in model["shape"].items() if k[0] != "_"} for name, model in models.items()}
