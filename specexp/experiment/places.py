"""The two places where a job's texts can come from: models in this process (`OwnModels`), or servers (`Served`).

Each knows what must hold before anything is loaded or asked, opens the sides of the experiment, and says in the end what is known of them.
Of a server's models nothing is known that only weights can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch.nn import Module

from specexp.datasets import CHAT, Example
from specexp.datasets.prompts import LoadPrompts
from specexp.decoding.protocols import Drafter
from specexp.drafters.model import NoDraft
from specexp.errors import UserError
from specexp.experiment.experiment import Experiment, no_answer
from specexp.experiment.guard import guarded
from specexp.experiment.pass_timing import measured_curve
from specexp.experiment.sides import DecoderSide, OwnTexts, ServedSide, ServedTexts
from specexp.experiment.supply import LABEL, Inputs, Supply, arguments_of, check_format, methods_of, prompter_of, supplied
from specexp.figures.acceptance import quotient
from specexp.figures.cost import CostCurve, swi_figures
from specexp.figures.record import Record
from specexp.figures.served import request_figures, served_figures
from specexp.figures.speed import cpu_share
from specexp.models.loading import memory_watched, set_threads
from specexp.models.pair import stop_ids
from specexp.peers import PeerLoop
from specexp.report import llmperf
from specexp.runners.static import StaticRunner
from specexp.text.stopping import Stopping
from specexp.tracking.records import to_json, write_whole

TEMPLATE_ARGUMENTS = "chat_template_kwargs"  # what servers call them in a request (vLLM, SGLang, llama.cpp)


class OwnModels:
    """Models in this process. config: the checked configuration. inputs: what was read before any weights are loaded."""

    def __init__(self, config: DictConfig, inputs: Inputs):
        """Prepares everything but the weights. Raises UserError where the pair cannot be had or does not fit together."""
        self.config, self.inputs = config, inputs
        inputs.pair.check()
        inputs.pair.release_others()
        set_threads(config.threads)
        prompter = prompter_of(config, inputs.pair.load_tokenizer())
        self.template_unused = check_format(config, inputs.examples, prompter)
        pair, stop = inputs.pair, Stopping(prompter.tokenizer, (), ())
        longest, limits = pair.longest_text(inputs.cache), {"switches": pair.switches(), "rows": pair.embedded_ids()}
        self.reader = OwnTexts(inputs.dataset, prompter, stop, config.max_new_tokens, longest, **limits)

    def guarded(self, way_out: str):
        """Surrounds everything that needs memory, so that running out of it is reported in a sentence."""
        config = self.config
        return memory_watched(f"lower max_new_tokens={config.max_new_tokens}, give dtype=bfloat16 or smaller models; {way_out}")

    def open(self) -> Experiment:
        """The experiment, with its weights loaded."""
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
        self.reader.runners = guarded(self.decoders.values())
        sides = {name: DecoderSide(decoder, inputs.sampling) for name, decoder in self.decoders.items()}
        handles = {key: config[key] for key in ("max_new_tokens", "samples", "repeats", "warmup", "seed")}
        return Experiment(sides, self.reader, weights=config.model_pair.weights, **handles)

    def cost_curve(self, prompts: Sequence[list[int]]) -> CostCurve | None:
        """How long passes of several widths take; measuring it is also a warm-up."""
        return measured_curve(self.decoders, prompts, self.config.max_new_tokens, self.inputs.sampling)

    def facts(self) -> dict[str, object]:
        """What environment.json holds about the models."""
        config, model = self.config, self.decoders["method"].target.model
        return {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "cache": self.inputs.cache.func.kind,
            "weights": config.model_pair.weights,
            "weights_digest": _digest(model),
            "shapes": _shapes(config),
            "baselines": self._baselines(),
            "peers": self._peers(),
            "costs": self._costs(),
        }

    def figures(self, records: Sequence[Record]) -> dict[str, object]:
        """What summary.json holds about the models, and what their passes cost."""
        costs = swi_figures([record.method for record in records], self._costs())
        claims = DecoderSide(self.decoders["method"], self.inputs.sampling).facts() | {"drafts": drafts(self.decoders["method"].drafter)}
        if self.reader.target.device.type == "cpu":
            claims |= {"cpu_share": cpu_share(records, torch.get_num_threads())}
        return {"model_pair": self.config.model_pair.name, "template_unused": self.template_unused} | claims | costs

    def finish(self, experiment: Experiment, records: Sequence[Record], prompt: list[int], directory: Path) -> None:
        """Writes what a run leaves beside its records: a profile, where one is wanted."""
        self.inputs.profile.write(self.decoders["method"], prompt, self.config.max_new_tokens, self.inputs.sampling, directory)

    def _costs(self) -> dict[str, dict[str, float]]:
        """What a pass of each model costs: by number of parameters, and as the pair's own tables say."""
        method = self.decoders["method"]
        models = {"target": method.target} | dict(method.drafter.models)
        parameters = {name: runner.model.num_parameters() for name, runner in models.items()}
        return {"model_parameters": parameters} | OmegaConf.to_container(self.config.model_pair.costs, resolve=True)

    def _baselines(self) -> dict[str, str]:
        """The baselines of the configuration, and the captured one that is added on CUDA."""
        joined = "baseline_captured" in self.decoders and "captured" not in self.config.baselines
        named = {name: node[LABEL] for name, node in self.config.baselines.items()}
        return named | ({"captured": self.config.captured[LABEL]} if joined else {})

    def _peers(self) -> dict[str, dict]:
        """The settings of each side that is another maker's loop, by the names that the configuration gives to them."""
        named = zip(("method", *self.config.baselines), methods_of(self.config).items(), strict=True)
        peers = {name: node for name, (side, node) in named if isinstance(self.decoders[side], PeerLoop)}
        return {name: {key: value for key, value in node.items() if key not in ("_target_", LABEL)} for name, node in peers.items()}


def drafts(drafter: object) -> bool:
    """Whether this drafter ever proposes anything. Loops of other makers that draft nothing have a base drafter."""
    return type(drafter) is not Drafter and not isinstance(drafter, NoDraft)


NUMBERS = 16  # of each parameter, for the digest


def _digest(model: Module) -> str:
    """Tells weights from others under the same name: a hash of a few numbers of every parameter, which takes no time to speak of."""
    found = sha256()
    for name, parameter in model.named_parameters():
        numbers = parameter.detach().reshape(-1)[:: max(1, parameter.numel() // NUMBERS)] if parameter.is_contiguous() else parameter[:1]
        found.update(name.encode() + numbers.to("cpu", torch.float32).numpy().tobytes())
    return found.hexdigest()[:12]


def _joins_captured(decoders: dict) -> bool:
    """Whether the captured baseline is added: on CUDA, a loop without captured graphs is too slow to stand for autoregressive decoding."""
    target = decoders["method"].target
    captured = "baseline_captured" in decoders or target.facts.kind == "static" or not target.facts.cache_exact
    return torch.device(target.facts.device).type == "cuda" and not captured and StaticRunner.fits(target.model)


def _shapes(config: DictConfig) -> dict[str, object] | None:
    """The shapes of stand-ins, which are Llamas whatever the named models are."""
    if config.model_pair.weights == "real":
        return None
    pair = OmegaConf.to_container(config.model_pair, resolve=True)
    models = {name: pair[name] for name in ("target", "draft") if pair[name]} | pair["drafts"]
    return {name: {"architecture": "llama"} | {k: v for k, v in model["shape"].items() if k[0] != "_"} for name, model in models.items()}


class Served:
    """Servers. config: the checked configuration. inputs: what was read before any server is asked."""

    def __init__(self, config: DictConfig, inputs: Inputs):
        self.config, self.inputs = config, inputs
        self.reader = ServedTexts(inputs.dataset)
        self.endpoints = {"method": _templated(inputs.methods["method"](), config, inputs.examples)}
        if config.baseline.url is not None:
            self.endpoints["baseline"] = replace(self.endpoints["method"], **OmegaConf.to_container(config.baseline))

    def guarded(self, way_out: str) -> AbstractContextManager:
        """Does nothing, since the server's memory is not this process's."""
        return nullcontext()

    def open(self) -> Experiment:
        """The experiment, with its servers connected. Raises UserError where a server cannot be used."""
        for endpoint in self.endpoints.values():
            endpoint.connect()
        config, strings = self.config, self.inputs.dataset.stop_strings
        sides = {name: ServedSide(each, self.inputs.sampling, strings, config.ignore_eos) for name, each in self.endpoints.items()}
        handles = {key: config[key] for key in ("max_new_tokens", "samples", "repeats", "warmup", "seed")}
        return Experiment(sides, self.reader, stop_at_failure=self._own.on_error == "stop", **handles)

    @property
    def _own(self):
        return self.endpoints["method"]

    def cost_curve(self, prompts: Sequence[str]) -> None:
        """None: a server's passes cannot be timed from here."""

    def facts(self) -> dict[str, object]:
        """What environment.json holds: nothing about a machine of ours, since none decodes."""
        sides = {name: {"url": endpoint.url, "model": endpoint.served, "api": endpoint.api} for name, endpoint in self.endpoints.items()}
        return {"endpoints": sides, "concurrency": self._own.concurrency}

    def figures(self, records: Sequence[Record]) -> dict[str, object]:
        """The model that was served; what only weights can tell is null."""
        named = {"model_pair": self._own.served, "lossless": None, "cache_exact": None}
        load = request_figures(records) if isinstance(self.inputs.dataset, LoadPrompts) else {}
        return named | speculation_figures(records) | served_figures(records) | load

    def finish(self, experiment: Experiment, records: Sequence[Record], prompt: str, directory: Path) -> None:
        """Writes the files of a load test. Raises UserError where every request failed."""
        if not records:
            raise no_answer(experiment.failures, self.endpoints[experiment.failures[0].side].url)
        if isinstance(self.inputs.dataset, LoadPrompts):
            self._write_llmperf(experiment, records, directory)

    def _write_llmperf(self, experiment: Experiment, records: Sequence[Record], directory: Path) -> None:
        dataset = self.inputs.dataset
        settings = {
            "model": self._own.served,
            "mean_input_tokens": dataset.mean_input_tokens,
            "stddev_input_tokens": dataset.stddev_input_tokens,
            "mean_output_tokens": self.config.max_new_tokens,
            "stddev_output_tokens": 0,  # every request asks for the same number
            "num_concurrent_requests": self._own.concurrency,
            "additional_sampling_params": {"temperature": self.inputs.sampling.temperature},
        }
        errors = [llmperf.failed(failure.code, failure.message) for failure in experiment.failures if failure.side == "method"]
        requests = [*map(llmperf.individual, records), *errors]
        files = {"summary": llmperf.summary(records, errors, settings), "individual_responses": requests}
        for name, content in files.items():
            write_whole(directory / f"{llmperf.file_stem(settings)}_{name}.json", to_json(content, indent=4) + "\n")


def _templated(endpoint, config: DictConfig, examples: Sequence[Example]):
    """The endpoint, with the template's arguments in each request. Raises UserError for an API that applies no template."""
    arguments = config.chat_template_args
    if endpoint.api != "chat" and (examples[0].messages or arguments is not None):
        asked = f"dataset.prompt_format={CHAT}" if examples[0].messages else f"chat_template_args={arguments}"
        raise UserError(f"{asked} does not go with method.api={endpoint.api}: set method.api=chat, where the server applies a template.")
    if arguments is None:
        return endpoint
    if TEMPLATE_ARGUMENTS in endpoint.body:
        raise UserError(f"method.body.{TEMPLATE_ARGUMENTS} and chat_template_args={arguments} are the same field: leave out one of them.")
    return replace(endpoint, body={**endpoint.body, TEMPLATE_ARGUMENTS: OmegaConf.to_container(arguments, resolve=True)})


def error_figures(experiment: Experiment) -> dict[str, int]:
    """How many requests were refused for good, by side."""
    prefixes = {"method": "", "baseline": "baseline_"}
    return {
        f"{prefixes[name]}num_errors": sum(failure.side == name for failure in experiment.failures)
        for name, side in experiment.sides.items()
        if isinstance(side, ServedSide)
    }


def speculation_figures(records: Sequence[Record]) -> dict[str, float | int | None]:
    """Acceptance as our own server reported it for each request; nothing from servers that do not report it."""
    told = [record.method.speculation or {} for record in records]
    if not all("method" in one for one in told):
        return {}
    steps, drafted, accepted = (sum(one[f"num_{key}"] for one in told) for key in ("spec_steps", "draft_tokens", "accepted_draft_tokens"))
    return {
        "served_method": told[0]["method"],
        "served_acceptance_rate": quotient(accepted, drafted),
        "served_acceptance_length": quotient(accepted + steps, steps),
    }
