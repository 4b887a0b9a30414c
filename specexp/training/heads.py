"""The training of Medusa heads on a frozen target, called Medusa-1 (Cai et al. 2024, section 2.2.1), and how good the heads are.

The loss is the sum over heads of λ^i times the mean cross-entropy of head i. The optimizer is AdamW, with a warm-up over one tenth of the
steps and then a cosine to 0. What a step reads depends on (seed, step) alone, so that a training continued from its checkpoint ends as one
without interruption.

The heads read the target's hidden states over texts and should predict the ids that follow. States are computed when they are first asked
for and kept while there is room, so that later epochs need no pass of the target; only decoder-only models are known. Afterwards it is
counted how often a head's guess of each rank is the token that really comes, from which a static tree is searched. This module knows
nothing of files of heads and of how texts came about.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from specexp.errors import UserError
from specexp.models.heads import MedusaHeads
from specexp.runners.states import OutputStates
from specexp.training.texts import Text

WINDOW = 16  # so many batches are sorted by length together, so that little is padded


@dataclass(frozen=True)
class Plan:
    """How to train. batch: texts in a step. decay: λ. rate: the highest learning rate."""

    epochs: float = 3.0
    batch: int = 16
    rate: float = 1e-3
    decay: float = 0.8
    warmup: float = 0.1
    seed: int = 0
    save_seconds: float = 120.0
    report_every: int = 20


class Trainer:
    """One training of `heads` on `states`; `checkpoint` is its file. target: the name of the model whose states they are."""

    def __init__(self, heads: MedusaHeads, states: States, plan: Plan, checkpoint: Path, target: str = ""):
        texts = hashlib.sha256(repr([(text.start, *text.ids) for text in states.texts]).encode()).hexdigest()
        self.identity = repr((target, texts, plan.epochs, plan.batch, plan.rate, plan.decay, plan.warmup, plan.seed))
        self.heads, self.states, self.plan, self.checkpoint = heads.train().requires_grad_(True), states, plan, checkpoint
        self.optimizer = torch.optim.AdamW(heads.parameters(), lr=plan.rate, weight_decay=0.0)
        self.per_epoch = math.ceil(len(states.texts) / plan.batch)
        self.steps = max(1, round(plan.epochs * self.per_epoch))
        self.step = 0
        self.curve: list[dict[str, float]] = []  # one row per report
        self._since: list[tuple[Tensor, Tensor]] = []  # losses and hits of the steps since the last one
        self._epoch, self._batches = -1, []

    def run(self, report: Callable[[dict[str, float]], None]) -> None:
        """Trains to the last step and calls `report` with each report. An interruption leaves a checkpoint, and so does the end."""
        saved_at, began, first = time.monotonic(), time.monotonic(), self.step
        try:
            while self.step < self.steps:
                self._learn()
                if self.step % self.plan.report_every == 0 or self.step == self.steps:
                    left = (time.monotonic() - began) / (self.step - first) * (self.steps - self.step)
                    report(self._report() | {"seconds_left": left})
                if time.monotonic() - saved_at > self.plan.save_seconds:
                    self.save()
                    saved_at = time.monotonic()
        finally:
            self.save()

    def _learn(self) -> None:
        """Makes one step. Gradients are computed head by head, so that one head's logits are in memory at a time."""
        hidden, labels = self.states(self._chosen(self.step))
        hidden = hidden.to(self.heads.output.dtype)
        results = [self._backward(head, hidden, labels[:, head]) for head in range(len(self.heads))]
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate * self._factor((self.step + 1) / self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._since.append(tuple(torch.stack(values) for values in zip(*results, strict=True)))
        self.step += 1

    def _backward(self, head: int, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Adds to the gradients; returns the mean cross-entropy of a head, and how often its first guess is right."""
        logits, known = self.heads.one(head, hidden).float(), labels != NONE
        count = known.sum().clamp(min=1)
        loss = cross_entropy(logits, labels, reduction="sum", ignore_index=NONE) / count
        (self.plan.decay**head * loss).backward()
        return loss.detach(), (logits.argmax(-1) == labels).sum() / count

    def _chosen(self, step: int) -> list[int]:
        """The texts of this step. In each epoch every text is used once, in another order."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch != epoch:
            self._epoch, self._batches = epoch, self._ordered(random.Random(f"{self.plan.seed}/{epoch}"))
        return self._batches[place]

    def _ordered(self, rng: random.Random) -> list[list[int]]:
        order, size = list(range(len(self.states.texts))), self.plan.batch
        rng.shuffle(order)
        batches = []
        for at in range(0, len(order), WINDOW * size):
            window = sorted(order[at : at + WINDOW * size], key=lambda number: len(self.states.texts[number].ids))
            batches += [window[start : start + size] for start in range(0, len(window), size)]
        rng.shuffle(batches)
        return batches

    def _factor(self, share: float) -> float:
        """The factor on the learning rate at this share of the steps."""
        warmup = self.plan.warmup
        return share / warmup if share < warmup else 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))

    def _report(self) -> dict[str, float]:
        losses, hits = (torch.stack(values).mean(0).tolist() for values in zip(*self._since, strict=True))
        self._since = []
        row = {"step": self.step, "loss": sum(self.plan.decay**i * loss for i, loss in enumerate(losses))}
        row |= {f"loss_{i}": loss for i, loss in enumerate(losses)} | {f"accuracy_{i}": share for i, share in enumerate(hits)}
        self.curve.append(row | {"rate": self.optimizer.param_groups[0]["lr"]})
        return self.curve[-1]

    def save(self) -> None:
        """Writes the checkpoint, completely or not at all."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {"heads": self.heads.state_dict(), "optimizer": self.optimizer.state_dict(), "since": self._since}
        draft = self.checkpoint.with_suffix(".new")
        torch.save(state | {"step": self.step, "identity": self.identity, "curve": self.curve}, draft)
        draft.replace(self.checkpoint)

    def resume(self) -> None:
        """Continues from the checkpoint, where there is one. Raises UserError if it is of a training with other settings."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.heads.output.device, weights_only=True)
        shapes = {name: tensor.shape for name, tensor in self.heads.state_dict().items()}
        if state["identity"] != self.identity or shapes != {name: tensor.shape for name, tensor in state["heads"].items()}:
            raise UserError(
                f"{self.checkpoint} is of a training with another target, other texts, heads or settings; give the same ones again, "
                "or another --out DIR."
            )
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve, self._since = state["step"], state["curve"], state["since"]


NONE = -100  # label after the end of a text, which cross_entropy ignores
ROOM = 2 * 2**30  # bytes of states that are kept


class States:
    """The hidden states of `texts` under `model`, for `heads` heads."""

    def __init__(self, model: torch.nn.Module, texts: Sequence[Text], heads: int):
        self.model, self.texts, self.heads = model, texts, heads
        self._caught = OutputStates(model)
        self._kept: dict[int, Tensor] = {}
        self._room = ROOM

    def __call__(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """([n, D] states in the model's dtype, [n, K] labels): all places of the chosen texts from which the heads learn, text by text."""
        missing = [number for number in chosen if number not in self._kept]
        fresh = dict(zip(missing, self._computed([self.texts[number] for number in missing]), strict=True)) if missing else {}
        states = torch.cat([fresh[n] if n in fresh else self._kept[n].to(self.model.device) for n in chosen])
        labels = torch.cat([labelled(self.texts[n], self.heads) for n in chosen]).to(states.device)
        self._keep(fresh)
        return states, labels

    def _keep(self, fresh: dict[int, Tensor]) -> None:
        for number, states in fresh.items():
            if states.nbytes <= self._room:
                self._kept[number] = states.to("cpu", copy=True)
                self._room -= states.nbytes

    @torch.no_grad()
    def _computed(self, texts: Sequence[Text]) -> list[Tensor]:
        """The states of texts, computed in one pass: shorter texts are padded at the end, where causal attention hides the padding."""
        longest = max(len(text.ids) for text in texts)
        rows = [list(text.ids) + [0] * (longest - len(text.ids)) for text in texts]
        with self._caught:
            self.model(input_ids=torch.tensor(rows, device=self.model.device), use_cache=False)
        states = self._caught.batch()
        return [states[row, _first(text) : len(text.ids) - 2] for row, text in enumerate(texts)]


def labelled(text: Text, heads: int) -> Tensor:
    """[n, K]: after the state at place t, head i should predict id t + 2 + i."""
    ids = torch.tensor([*text.ids, *[NONE] * heads])
    return ids[_first(text) + 2 :].unfold(0, heads, 1)[: max(0, len(text.ids) - 2 - _first(text))]


def places(text: Text) -> int:
    """From how many of its places the heads learn."""
    return max(0, len(text.ids) - 2 - _first(text))


def _first(text: Text) -> int:
    return max(0, text.start - 1)


RANKS = 10
BATCH = 16  # texts at a time


@torch.no_grad()
def accuracies(heads: MedusaHeads, states: States, ranks: int = RANKS) -> tuple[list[list[float]], int]:
    """([K][ranks], places): the share of places where head i's guess of rank r is right; 0 where no text is long enough to tell."""
    hits = torch.zeros(len(heads), ranks, dtype=torch.int64)
    asked, seen = torch.zeros(len(heads), dtype=torch.int64), 0
    for hidden, labels in _batches(states):
        hidden, seen = hidden.to(heads.output.dtype), seen + len(hidden)
        for head in range(len(heads)):
            known = labels[:, head] != NONE
            guesses = heads.one(head, hidden[known]).topk(ranks, -1).indices
            hits[head] += (guesses == labels[known, head, None]).sum(0).cpu()
            asked[head] += int(known.sum())
    shares = hits / asked.clamp(min=1)[:, None]
    return [[round(share, 5) for share in row] for row in shares.tolist()], seen


def table(measured: list[list[float]]) -> str:
    """Lines for the terminal: by head, the share of tokens among its 1, 2, .. best guesses."""
    ranks = [rank for rank in (1, 2, 3, 4, 5, 10) if rank <= len(measured[0])]
    lines = ["head  " + "".join(f"{f'top {rank}':>8}" for rank in ranks)]
    lines += [f"{head:<6}" + "".join(f"{sum(row[:rank]):>8.3f}" for rank in ranks) for head, row in enumerate(measured)]
    return "\n".join(lines)


def _batches(states: States) -> Iterator[tuple[Tensor, Tensor]]:
    for at in range(0, len(states.texts), BATCH):
        yield states(range(at, min(at + BATCH, len(states.texts))))
