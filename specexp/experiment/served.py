"""Where a job's texts come from servers: no pair is loaded, and what only weights tell stays unknown. (own_models.py is its counterpart.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from specexp.datasets.prompts import LoadPrompts
from specexp.experiment.experiment import Experiment, no_answer
from specexp.experiment.readers import ServedTexts
from specexp.experiment.sides import ServedSide
from specexp.experiment.supply import Inputs
from specexp.figures.acceptance import quotient
from specexp.figures.record import Record
from specexp.report import llmperf
from specexp.tracking.records import to_json, write_whole


class Served:
    """config: checked. inputs: what was read before anything was asked."""

    def __init__(self, config: DictConfig, inputs: Inputs):
        self.config, self.inputs = config, inputs
        self.reader = ServedTexts(inputs.dataset)
        self.endpoints = {"method": inputs.methods["method"]()}
        if config.baseline.url is not None:
            self.endpoints["baseline"] = replace(self.endpoints["method"], **OmegaConf.to_container(config.baseline))

    def guarded(self, way_out: str) -> AbstractContextManager:
        """A server's memory is its own matter."""
        return nullcontext()

    def open(self) -> Experiment:
        """Connected. UserError where a server cannot be used."""
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
        """A server's passes are not seen from here."""

    def facts(self) -> dict[str, object]:
        """For environment.json: there is no machine of ours in it."""
        sides = {name: {"url": endpoint.url, "model": endpoint.served, "api": endpoint.api} for name, endpoint in self.endpoints.items()}
        return {"endpoints": sides, "concurrency": self._own.concurrency}

    def figures(self, records: Sequence[Record]) -> dict[str, object]:
        """The model that was served; what only weights tell is null."""
        return {"model_pair": self._own.served, "lossless": None, "cache_exact": None} | speculation_figures(records)

    def finish(self, experiment: Experiment, records: Sequence[Record], prompt: str, directory: Path) -> None:
        """The files of a load test. UserError where every request failed."""
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
            "stddev_output_tokens": 0,  # every request asks for as many
            "num_concurrent_requests": self._own.concurrency,
            "additional_sampling_params": {"temperature": self.inputs.sampling.temperature},
        }
        errors = [llmperf.failed(failure.code, failure.message) for failure in experiment.failures if failure.side == "method"]
        rows = [record.to_json() for record in records]
        requests = [*map(llmperf.individual, rows), *errors]
        files = {"summary": llmperf.summary(rows, errors, settings), "individual_responses": requests}
        for name, content in files.items():
            write_whole(directory / f"{llmperf.file_stem(settings)}_{name}.json", to_json(content, indent=4) + "\n")


def error_figures(experiment: Experiment) -> dict[str, int]:
    """Requests that were refused for good, by side."""
    prefixes = {"method": "", "baseline": "baseline_"}
    return {
        f"{prefixes[name]}num_errors": sum(failure.side == name for failure in experiment.failures)
        for name, side in experiment.sides.items()
        if isinstance(side, ServedSide)
    }


def speculation_figures(records: Sequence[Record]) -> dict[str, float | int | None]:
    """Acceptance as our own server told it of each request; nothing from servers that do not."""
    told = [record.sides["method"].speculation for record in records]
    if None in told:
        return {}
    steps, drafted, accepted = (sum(one[f"num_{key}"] for one in told) for key in ("spec_steps", "draft_tokens", "accepted_draft_tokens"))
    return {
        "served_method": told[0]["method"],
        "served_acceptance_rate": quotient(accepted, drafted),
        "served_acceptance_length": quotient(accepted + steps, steps),
    }
