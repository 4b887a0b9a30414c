"""This command trains the tiny target and draft that ship with specexp: `python -m specexp.training.pretrain --out DIR --minutes 90`.

A narrow target learns the corpus, at first with few layers, then grown to its depth by layers that start as the identity (four times the
tokens in the same time). A one-layer draft is distilled beside it, then alone with the target frozen, partly on text that the target
wrote. The same command continues from the checkpoint in DIR. A budget in minutes does not give the same weights twice, because the
schedule follows the clock; a budget in steps does. The module knows nothing of decoding.

The shipped pair saw 3.3 million tokens in 66 minutes on two cores, while mix, weights and schedule found the form they have here.
"""
import argparse
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from specexp.training import tiny
from specexp.training.corpus import Corpus, library_sources, train_tokenizer, training_texts
from specexp.training.optimizers import optimizers, schedule, set_rate
from specexp.training.tiny import DRAFT, TARGET, Shape, export

GROWN_FROM = 0.89    # share of the budget after which the target has all its layers
FROZEN_FROM = 0.94   # share of the budget after which only the draft learns
ON_POLICY_EVERY = 4  # of the draft's own steps, one in this many is on text of the target
DRAFT_EVERY = 6      # beside the target, the draft learns on one step in this many
MIXED_EVERY = 5      # one batch in this many has several documents in a row
LONG_EVERY = 20      # one batch in this many has, moreover, 4 times the length and a quarter of the rows


@dataclass(frozen=True)
class Plan:
    """What to train and for how long; where `steps` is given, the clock has no influence."""

    out: Path
    minutes: float
    steps: int | None = None
    seed: int = 0
    rows: int = 8
    length: int = 256
    rate: float = 0.02        # of Muon, for the target's matrices
    target: Shape = TARGET
    shallow: int = 6          # layers the target starts with
    draft: Shape = DRAFT
    vocabulary: int = 2048
    documents: int = 12000      # of each kind, for the tokenizer
    sources: int | None = None  # number of library files, all by default
    save_seconds: float = 240
    grown_from: float = GROWN_FROM
    frozen_from: float = FROZEN_FROM
    draft_every: int = DRAFT_EVERY

    @property
    def beginning(self) -> Shape:
        """The target's shape before it grows."""
        return replace(self.target, layers=self.shallow)


@dataclass
class Progress:
    """How far the training is: steps and tokens done, and seconds spent on them."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    plan: Plan = field(default=None, repr=False)

    @property
    def share(self) -> float:
        """The part of the budget that is used, from 0 on; 1 or more means finished."""
        return self.step / self.plan.steps if self.plan.steps else self.seconds / (60 * self.plan.minutes)


@dataclass(frozen=True)
class Batch:
    """inputs: what the model is called with. labels, weights: [n], the tokens that its n logits predict and how much each counts."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    weights: torch.Tensor


class Trainer:
    """Both models with their optimizers, and one training step of either phase. `family`: the module that builds and grows them."""

    family = tiny

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast, corpus):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.plan, self.tokenizer, self.corpus = plan, tokenizer, corpus
        self.target = self.family.build(plan.beginning, tokenizer).to(self.device)
        self.draft = self.family.build(plan.draft, tokenizer).to(self.device)
        self.learners = {"target": self._optimizers(self.target), "draft": self._optimizers(self.draft)}
        self.progress = Progress(plan=plan)
        self.shown = {"target": 0.0, "draft": 0.0, "agree": 0.0}

    def _optimizers(self, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        return optimizers(model, self.plan.rate, self.family.RATES)

    def grow(self) -> None:
        """Gives the target all its layers, and new optimizers."""
        self.target = self._whole("target").to(self.device)
        self.learners["target"] = self._optimizers(self.target)

    def step(self) -> None:
        """Makes one step: of the target and now and then of the draft, or of the draft alone once the target is frozen."""
        started, share, step = time.monotonic(), self.progress.share, self.progress.step
        if share >= self.plan.grown_from and self.family.depth(self.target) < self.plan.target.layers:
            self.grow()
        batch = self._batch(share, step)
        precision = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        frozen = share >= self.plan.frozen_from
        with precision:
            with torch.no_grad() if frozen else nullcontext():
                logits_T = self._logits(self.target, batch)
            if not frozen:
                losses = F.cross_entropy(logits_T, batch.labels, reduction="none")
                self._learn("target", batch.weights @ losses, schedule(share, self.plan.frozen_from))
            if frozen or step % self.plan.draft_every == 0:
                self._learn("draft", self._distil(batch, logits_T.detach()), schedule(share, 1.0))
        self.progress.step += 1
        self.progress.tokens += 0 if frozen else batch.inputs["input_ids"].numel()
        self.progress.seconds += time.monotonic() - started

    def _batch(self, share: float, step: int) -> Batch:
        ids, weights = (part.to(self.device) for part in self._text(share, step))
        return Batch({"input_ids": ids}, ids[:, 1:].flatten(), weights[:, 1:].flatten() / weights[:, 1:].sum())

    def _logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The logits [n, V] in float32."""
        return model(**batch.inputs, use_cache=False).logits[:, :-1].float().flatten(0, 1)

    def _text(self, share: float, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, length = self.plan.rows, self.plan.length
        if share >= self.plan.frozen_from and step % ON_POLICY_EVERY == 0:
            return self._written(self.corpus.prompts(step, 2 * rows).to(self.device), length // 4)
        if step % LONG_EVERY == LONG_EVERY - 1:
            return self.corpus.mixed(step, max(rows // 4, 1), 4 * length)
        return self.corpus.mixed(step, rows, length) if step % MIXED_EVERY == 0 else self.corpus.singles(step, rows * length)

    def _written(self, prompts: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts with what the target writes after them, greedily; only that text has weight, up to its end."""
        ids = self.target.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=length)
        ended = (ids == self.tokenizer.eos_token_id).long()
        weights = (ended.cumsum(1) - ended == 0).float()
        weights[:, :prompts.size(1)] = 0
        return ids, weights

    def _distil(self, batch: Batch, logits_T: torch.Tensor) -> torch.Tensor:
        """Weighted mean of KL(target || draft), plus a little cross-entropy on the target's first choice."""
        logits_D, best, weights = self._logits(self.draft, batch), logits_T.argmax(-1), batch.weights
        self._show("agree", (weights @ (logits_D.argmax(-1) == best).float()).item())
        kl = F.kl_div(logits_D.log_softmax(-1), logits_T.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        return weights @ (kl + 0.2 * F.cross_entropy(logits_D, best, reduction="none"))

    def _learn(self, name: str, loss: torch.Tensor, factor: float) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(getattr(self, name).parameters(), 1.0)
        for optimizer in self.learners[name]:
            set_rate(optimizer, factor)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._show(name, loss.item())

    def _show(self, name: str, value: float) -> None:
        self.shown[name] = 0.95 * self.shown[name] + 0.05 * value if self.shown[name] else value

    def report(self) -> str:
        """One line of progress: running means, the target's learning rate, its tokens a second."""
        p, rate = self.progress, self.learners["target"][0].param_groups[0]["lr"]
        figures = " ".join(f"{name} {value:.3f}" for name, value in self.shown.items())
        return f"step {p.step} {100 * p.share:.1f} % {figures} lr {rate:.4f} {p.tokens} tokens {p.tokens / p.seconds:.0f}/s"

    def save(self) -> None:
        """Writes the checkpoint, completely or not at all, and then both models in the form that others load."""
        state = {name: getattr(self, name).state_dict() for name in self.learners}
        state["learners"] = {name: [o.state_dict() for o in group] for name, group in self.learners.items()}
        state["progress"] = (self.progress.step, self.progress.seconds, self.progress.tokens)
        torch.save(state, self.plan.out / "checkpoint.new")
        (self.plan.out / "checkpoint.new").replace(self.plan.out / "checkpoint.pt")
        for name in self.learners:
            export(self._whole(name), self.tokenizer, self.plan.out / name)

    def _whole(self, name: str) -> torch.nn.Module:
        """The draft, or the target with all its layers, even if some were still to be added."""
        model, shape = getattr(self, name), getattr(self.plan, name)
        return model if self.family.depth(model) == shape.layers else self.family.grown(model, shape, self.tokenizer)

    def resume(self) -> None:
        """Continues from the checkpoint, where there is one."""
        path = self.plan.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if len(state["target"]) > len(self.target.state_dict()):
            self.grow()
        for name, group in self.learners.items():
            getattr(self, name).load_state_dict(state[name])
            for optimizer, saved in zip(group, state["learners"][name], strict=True):
                optimizer.load_state_dict(saved)
        self.progress = Progress(*state["progress"], plan=self.plan)


def begin(plan: Plan) -> Trainer:
    """A trainer at the point that the plan's directory has reached: at the start, or at its checkpoint."""
    plan.out.mkdir(parents=True, exist_ok=True)
    print("reading the standard library's sources", flush=True)
    sources = library_sources(plan.sources)
    saved = plan.out / "tokenizer"
    if not saved.exists():
        print(f"training the tokenizer on {plan.documents} documents", flush=True)
        train_tokenizer(training_texts(sources, plan.documents, plan.seed), plan.vocabulary).save_pretrained(saved)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(saved)
    trainer = Trainer(plan, tokenizer, Corpus(tokenizer, sources, plan.seed))
    trainer.resume()
    return trainer


def train(plan: Plan) -> Trainer:
    """Trains to the end of the plan's budget, with a checkpoint now and then."""
    return finish(begin(plan))


def finish(trainer: Trainer) -> Trainer:
    """Trains from where the trainer stands to the end of its plan's budget."""
    plan, saved_at = trainer.plan, time.monotonic()
    while trainer.progress.share < 1:
        trainer.step()
        if trainer.progress.step == 1 or trainer.progress.step % 20 == 0:
            print(trainer.report(), flush=True)
        if time.monotonic() - saved_at > plan.save_seconds:
            trainer.save()
            saved_at = time.monotonic()
    trainer.save()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of checkpoint.pt and of the exported target/ and draft/")
    parser.add_argument("--minutes", type=float, default=90, help="training time in all, across resumptions")
    parser.add_argument("--steps", type=int, help="train this many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of the matrices (Muon)")
    arguments = parser.parse_args()
    os.nice(19)
    train(Plan(**vars(arguments)))


if __name__ == "__main__":
    main()
