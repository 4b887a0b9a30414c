"""This command trains the tiny encoder-decoder pair that ships with specexp: `python -m specexp.training.pretrain_t5 --out DIR --steps
2400`.

The source is an article in the prompt that microsum uses; the target is its summary. No article of an evaluation file is used. Otherwise
the training is that of pretrain.py: a target that at first has few layers and is then grown, a one-layer draft distilled beside it and
then alone. The module knows nothing of decoding.

The shipped pair is that of `--steps 2400` at step 1,086: the target, finished by then, saw 1.8 million tokens of articles, and the draft
is accepted nine times in ten. Trained to the end it would be accepted nearly always, as no real draft is.
"""

import argparse
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from specexp.assets import asset_path
from specexp.training import tiny_t5
from specexp.training.articles import training_article
from specexp.training.corpus import CONSTANT_WEIGHT
from specexp.training.pretrain import ON_POLICY_EVERY, Batch, Plan, Trainer, finish
from specexp.training.tiny_t5 import DRAFT, TARGET, Shape

SHORT, FULL = (0, 2), (5, 7)  # asides of an article: in a short one the model finds what to copy sooner
SHORT_EVERY = 2  # one batch in this many is of short articles


@dataclass(frozen=True)
class PlanT5(Plan):
    """`length` and `vocabulary` are not used: articles have their own length, and the tokenizer is that of the tiny Llamas."""

    rows: int = 16
    target: Shape = TARGET
    shallow: int = 4
    draft: Shape = DRAFT
    grown_from: float = 0.3
    frozen_from: float = 0.45
    draft_every: int = 2

    @property
    def beginning(self) -> Shape:
        return replace(self.target, layers=self.shallow, encoder=self.shallow)


class Articles:
    """Batches that depend on (seed, step) alone: sources [rows, n] and their mask, summaries [rows, m] and a weight for each token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        vocabulary = tokenizer.get_vocab().items()
        self.constants = torch.tensor([index for token, index in vocabulary if len(token) == 1 and token.isascii() and token.isalnum()])

    def batch(self, step: int, rows: int) -> tuple[torch.Tensor, ...]:
        rng = random.Random(f"{self.seed}/{step}/articles")
        articles = [training_article(rng, SHORT if step % SHORT_EVERY == 0 else FULL) for _ in range(rows)]
        sources = self._padded([article.prompt for article in articles])
        labels = self._padded([f" {article.summary}" for article in articles])["input_ids"]
        return sources["input_ids"], sources["attention_mask"], labels, self.weights(labels)

    def weights(self, labels: torch.Tensor) -> torch.Tensor:
        """The weight of each token: digits weigh most, as in the tiny Llamas' training; what follows the end weighs nothing."""
        ended = (labels == self.tokenizer.eos_token_id).long()
        before_end = (ended.cumsum(1) - ended == 0) & (labels != self.tokenizer.pad_token_id)
        return before_end * (1.0 + (CONSTANT_WEIGHT - 1.0) * torch.isin(labels, self.constants.to(labels.device)))

    def _padded(self, texts: list[str]):
        return self.tokenizer(texts, padding=True, return_tensors="pt")


class TrainerT5(Trainer):
    """The same training; the logits are the decoder's, one for each token of the summary."""

    family = tiny_t5

    def _batch(self, share: float, step: int) -> Batch:
        rows = self.plan.rows
        if share >= self.plan.frozen_from and step % ON_POLICY_EVERY == 0:
            sources, mask, labels, weights = self._summarised(*(part.to(self.device) for part in self.corpus.batch(step, rows)[:2]))
        else:
            sources, mask, labels, weights = (part.to(self.device) for part in self.corpus.batch(step, rows))
        start = torch.full((rows, 1), self.tokenizer.pad_token_id, device=self.device)
        inputs = {"input_ids": sources, "attention_mask": mask, "decoder_input_ids": torch.cat([start, labels[:, :-1]], 1)}
        return Batch(inputs, labels.flatten(), weights.flatten() / weights.sum())

    def _logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return model(**batch.inputs, use_cache=False).logits.float().flatten(0, 1)

    def _summarised(self, sources: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Summaries that the target writes, greedily: in decoding the draft will read the target's text."""
        labels = self.target.generate(sources, attention_mask=mask, do_sample=False, max_new_tokens=32)[:, 1:]
        return sources, mask, labels, self.corpus.weights(labels)


def begin(plan: PlanT5) -> TrainerT5:
    """A trainer at the point that the plan's directory has reached: at the start, or at its checkpoint."""
    plan.out.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_t5.adapted(AutoTokenizer.from_pretrained(asset_path("asset:tiny/target")))
    trainer = TrainerT5(plan, tokenizer, Articles(tokenizer, plan.seed))
    trainer.resume()
    return trainer


def train(plan: PlanT5) -> TrainerT5:
    """Trains to the end of the plan's budget, with a checkpoint now and then."""
    return finish(begin(plan))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of checkpoint.pt and of the exported target/ and draft/")
    parser.add_argument("--minutes", type=float, default=35, help="training time in all, across resumptions")
    parser.add_argument("--steps", type=int, help="train this many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of the matrices (Muon)")
    arguments = parser.parse_args()
    os.nice(19)
    train(PlanT5(**vars(arguments)))


if __name__ == "__main__":
    main()
