"""A text predicted token by token by a runner, each from the true ones before it: its likelihood, and how often the best guess was right.

The next tokens are given to the runner as a draft, so whatever cache stands behind it is measured as decoding uses it, and there is no
second way of calling models. Knows nothing of caches, tokenizers or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf

import torch

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Runner
from specexp.decoding.room import within

PASS = 128  # tokens predicted at a time, at most: bounds the memory that logits take
LARGEST_EXPONENT = 700.0  # exp() of more is not a float


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
    """ids: two or more; the first is given, the others are predicted. runner: of a decoder-only model."""
    context = Context(runner.start(ids[:1], len(ids) - 1), runner.device, capacity=len(ids))
    nll, correct = 0.0, 0
    while len(context) < len(ids):
        behind = within(longest_pass - 1, runner.room(context))
        true = Draft.of_ids(ids[len(context) : len(context) + behind + 1], runner.device)  # the last one is predicted and not read
        logits = runner.logits(context, Draft.of_ids(true.ids[:-1], runner.device), rows=len(true)).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        nll -= float(logits.log_softmax(-1).gather(1, true.tokens[:, None]).cpu().double().sum())
        correct += int((logits.argmax(-1) == true.tokens).sum())
        context.append(true.ids)
    return Prediction(nll, correct, len(ids) - 1)
