"""One evaluation of caches, from a composed configuration to its table and files: the text is read and predicted under every cache.

A runner predicts the text token by token, each token from the true ones before it; counted are the text's likelihood and how often the
model's first choice was right. The next tokens are given to the runner as a draft, so every cache is measured as decoding uses it, and
models are called in no second way. Checks come in the order of their cost; nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf
from pathlib import Path

import torch
from omegaconf import DictConfig

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Runner, within
from specexp.errors import UserError
from specexp.experiment.guard import guard
from specexp.models import loading
from specexp.report.papers import show
from specexp.text import text_ids
from specexp.tracking.records import to_json, write_whole

COLUMNS = ("cache", "perplexity", "mean_nll", "accuracy", "tokens", "kv_bytes", "cache_exact")


def run(config: DictConfig, directory: Path, build: Callable) -> None:
    """Writes perplexity.json and perplexity.csv into `directory`. Raises UserError for what the user can put right."""
    pair, text = build(config.model_pair), build(config.text)
    caches = {name: build(node) for name, node in config.caches.items()}
    document = text.read()
    pair.check()
    pair.release_others()
    ids = _ids(pair, document, config.max_tokens)
    _check_lengths(pair, caches, len(ids))
    loading.set_threads(config.threads)
    rows = [_row(name, cache, pair.target, ids) for name, cache in caches.items()]
    names = {"model": pair.target.name, "text": text.name}
    _write(directory, names, rows)
    show(rows, f"{pair.target.name}, {text.name}", directory)


def _ids(pair, document: str, max_tokens: int) -> list[int]:
    if loading.load_config(pair.target).is_encoder_decoder:
        raise UserError(f"{pair.target.name} reads a source besides the text it writes; choose a decoder-only model with model=NAME.")
    ids = text_ids(pair.load_tokenizer(), document, verbose=False)[:max_tokens]
    if len(ids) < 2:
        raise UserError("the text has fewer than two tokens, so there is nothing to predict; choose another with text.path=FILE.")
    return ids


def _check_lengths(pair, caches: dict[str, Callable], tokens: int) -> None:
    if crossed := [length for length in pair.switches() if length < tokens]:
        raise UserError(
            f"the text has {tokens} tokens, and beyond {crossed[0]} {pair.target.name} rotates all positions otherwise, so that the caches "
            f"would differ in more than what they keep; set max_tokens={crossed[0]}."
        )
    for name, cache in caches.items():
        longest = pair.longest_text(cache)
        if longest is not None and tokens > longest:
            raise UserError(
                f"the text has {tokens} tokens and {pair.target.name} has {longest} positions under the cache {name}; "
                f"set max_tokens={longest} or leave that cache out with ~caches.{name}."
            )


def _row(name: str, cache: Callable, target, ids: Sequence[int]) -> dict[str, object]:
    runner = cache(loading.load_model(target))
    guard([("target", runner)], ids)
    found = predict(runner, ids)
    figures = (found.perplexity, found.mean_nll, found.accuracy, found.tokens, runner.usage().kv_bytes, runner.facts.cache_exact)
    return dict(zip(COLUMNS, (name, *figures), strict=True))


def _write(directory: Path, names: dict[str, str], rows: list[dict[str, object]]) -> None:
    lines = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)]
    write_whole(directory / "perplexity.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
    write_whole(directory / "perplexity.json", to_json(names | {"caches": rows}, indent=2) + "\n")


PASS = 128  # tokens predicted at a time, at most; this bounds the memory of the logits
LARGEST_EXPONENT = 700.0  # exp() of a larger number is not a finite float


@dataclass(frozen=True)
class Prediction:
    """nll_sum: nats, over `tokens` predicted tokens, of which `correct` were the model's first choice."""

    nll_sum: float
    correct: int
    tokens: int

    @property
    def mean_nll(self) -> float:
        return self.nll_sum / self.tokens

    @property
    def perplexity(self) -> float:
        return exp(self.mean_nll) if self.mean_nll < LARGEST_EXPONENT else inf

    @property
    def accuracy(self) -> float:
        return self.correct / self.tokens


@torch.inference_mode()
def predict(runner: Runner, ids: Sequence[int], longest_pass: int = PASS) -> Prediction:
    """Predicts all of `ids` (two or more) but the first, which is given. runner: of a decoder-only model."""
    context = Context(runner.start(ids[:1], len(ids) - 1), runner.facts.device, capacity=len(ids))
    nll, correct = 0.0, 0
    while len(context) < len(ids):
        behind = within(longest_pass - 1, runner.room(context))
        true = Draft.of_ids(ids[len(context) : len(context) + behind + 1], runner.facts.device)  # the last one is predicted and not read
        logits = runner.logits(context, Draft.of_ids(true.ids[:-1], runner.facts.device), rows=len(true))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        nll -= float(logits.log_softmax(-1).gather(1, true.tokens[:, None]).cpu().double().sum())
        correct += int((logits.argmax(-1) == true.tokens).sum())
        context.append(true.ids)
    return Prediction(nll, correct, len(ids) - 1)
