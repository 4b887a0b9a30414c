"""The experiment: every prompt decoded by the method and by the baseline(s), interleaved, scored, and given as a record.

Knows decoders and datasets through their interfaces; nothing of Hydra, of files, and of how any of them works.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isnan

from torch.nn import Module

from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Cut
from specexp.decoding.sampling import GREEDY, Sampling
from specexp.errors import UserError
from specexp.experiment.generation import Generation, continuation_nll, generate, opening
from specexp.text.stopping import Stopping

QUICK_EXAMPLES = 8
WARMUP_TOKENS = 32


@dataclass
class Experiment:
    """sides: "method" and "baseline" (further ones "baseline_NAME") -> decoder, all over the same weights.

    weights: "real" or "standin", for the records: what a stand-in writes is a tiny model's text.
    """

    sides: dict[str, Decoder]
    dataset: object
    tokenizer: object
    stopping: Stopping
    max_new_tokens: int
    samples: int = 1
    repeats: int = 1
    warmup: int = 2
    seed: int = 0
    sampling: Sampling = GREEDY
    context_length: int | None = None
    weights: str = "real"
    _likelihoods: dict[tuple, tuple[float, int]] = field(default_factory=dict, repr=False)

    def prompts(self, examples: Sequence) -> dict[str, list[int]]:
        """Token ids by example, checked against the context before anything is decoded."""
        encoded = {example.id: self.tokenizer(example.prompt)["input_ids"] for example in examples}
        for name, ids in encoded.items():
            if not ids:
                raise UserError(f"the prompt of {name} is empty; give at least one token.")
            if self.context_length is not None and len(ids) + self.max_new_tokens > self.context_length:
                raise UserError(
                    f"{name} has {len(ids)} prompt tokens and max_new_tokens={self.max_new_tokens} more do not fit the models' context "
                    f"of {self.context_length}; lower max_new_tokens, or choose other prompts."
                )
        return encoded

    def check_models(self, prompt: list[int]) -> None:
        """UserError for a model of any side, target or draft, whose likelihood of the prompt's last token is no number. One pass
        each; a drafter without a model of its own (the target's first layers) has been looked at with the target."""
        for decoder in self.sides.values():
            for role, runner in {"target": decoder.target, **decoder.drafter.models}.items():
                if isinstance(runner.model, Module) and isnan(continuation_nll(runner.model, prompt, prompt[-1:])[0]):
                    raise _not_a_number(f"the {role} model", runner.model, "the first prompt")

    def warm_up(self, prompts: Sequence[list[int]]) -> None:
        """Every side sees real shapes once, so that no first call is timed."""
        longest_first = sorted(prompts, key=len, reverse=True)  # the longest fixes the size of every buffer
        for index, prompt in enumerate(longest_first[: self.warmup]):
            for decoder in self.sides.values():
                generate(decoder, prompt, self.max_new_tokens, _briefly, self.sampling, ("warmup", index))

    def records(self, examples: Sequence, prompts: dict[str, list[int]], done: set[tuple[str, int]]) -> Iterator[dict]:
        """One record per example and sample, in order, without those already done."""
        orders = self._orders()
        for example in examples:
            for sample in range(self.samples):
                names = next(orders)
                if (example.id, sample) not in done:
                    yield self._record(example, sample, prompts[example.id], names)

    def _orders(self) -> Iterator[list[str]]:
        """Who goes first: AB BA or BA AB, a seeded draw per pair, so that neither side is first more often."""
        draws, names = random.Random(self.seed), sorted(self.sides)
        while True:
            first = names if draws.random() < 0.5 else names[::-1]
            yield first
            yield first[::-1]

    def _record(self, example, sample: int, prompt: list[int], names: list[str]) -> dict:
        timed: dict[str, list[Generation]] = {name: [] for name in names}
        for repeat in range(self.repeats):
            for name in names if repeat % 2 == 0 else reversed(names):
                seed = (self.seed, example.id, sample)
                timed[name].append(generate(self.sides[name], prompt, self.max_new_tokens, self.stopping, self.sampling, seed))
        sides = {name: self._side(example, prompt, timed[name]) | claims(self.sides[name]) for name in sorted(timed)}
        return {"id": example.id, "sample": sample, "prompt": example.prompt, "weights": self.weights, "order": names, **sides}

    def _side(self, example, prompt: list[int], repeats: list[Generation]) -> dict:
        """Counts of the first repeat, mean seconds of all; everything untimed happens here, after the clocks stopped."""
        records = [generation.record() for generation in repeats]
        side = records[0]
        side["repeats_agree"] = all(record["token_ids"] == side["token_ids"] for record in records)
        for key in ("ttft_seconds", "decode_seconds", "target_seconds", "draft_seconds"):
            values = [record[key] for record in records]
            side[key] = None if None in values else sum(values) / len(values)
        side["text"] = self.stopping.text(opening(self.sides["method"].target.model, prompt), side["token_ids"])
        side["ends"] = self.stopping.ends(side["token_ids"], side["text"])
        if side["tree"] is not None:
            side["tree"]["texts"] = {part: [self.tokenizer.decode([id]) for id in side["tree"][part]] for part in ("nodes", "own")}
        side["score"] = self.dataset.score(example, side["text"])
        side["nll_sum"], side["nll_count"] = self._likelihood(prompt, side["token_ids"])
        return side

    def _likelihood(self, prompt: list[int], token_ids: list[int]) -> tuple[float, int]:
        """Under the target; both sides of a lossless method share one computation."""
        key = (tuple(prompt), tuple(token_ids))
        if key not in self._likelihoods:
            self._likelihoods.clear()
            self._likelihoods[key] = continuation_nll(self.sides["method"].target.model, prompt, token_ids)
            if isnan(self._likelihoods[key][0]):
                raise _not_a_number("the target model", self.sides["method"].target.model, "a text that it wrote")
        return self._likelihoods[key]


def quality_figures(dataset, records: Sequence[dict]) -> dict[str, float]:
    """The dataset's metrics for the method, and as baseline_... for each baseline."""
    figures: dict[str, float] = {}
    for side in [key for key in records[0] if key == "method" or key.startswith("baseline")]:
        by_example: dict[str, list[dict]] = {}
        for record in records:
            by_example.setdefault(record["id"], []).append(record[side]["score"])
        prefix = "" if side == "method" else f"{side}_"
        figures |= {prefix + key: value for key, value in dataset.metrics(list(by_example.values())).items()}
    return figures


def claims(decoder: Decoder) -> dict[str, bool]:
    """lossless: the text keeps the target's law. cache_exact: the cache changes nothing about the model."""
    return {"lossless": decoder.lossless, "cache_exact": decoder.target.facts.cache_exact}


def _not_a_number(role: str, model, read: str) -> UserError:
    dtype = str(model.dtype).removeprefix("torch.")
    return UserError(f"{role} ({model.config._name_or_path}) computes NaN for {read} in {dtype}: give it another, such as dtype=float32.")


def _briefly(ids: Sequence[int], since: int) -> Cut | None:
    """A warm-up's end: its buffers are made for a whole text, since what is made later is timed."""
    return Cut(len(ids), "stop") if len(ids) >= WARMUP_TOKENS else None
