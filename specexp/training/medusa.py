"""This module trains or measures Medusa heads for a model, which stays as it is, and writes them with their accuracies.

Every step that takes long leaves a file in the directory of the heads, and the same call continues from these files.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from specexp.datasets import files
from specexp.errors import UserError
from specexp.models.heads import WEIGHTS, HeadsFile, MedusaHeads, save
from specexp.models.loading import load_model
from specexp.models.pair import load_tokenizer, stop_ids
from specexp.models.spec import ModelSpec
from specexp.text import Prompter, with_template
from specexp.tracking.records import to_json, write_whole
from specexp.tracking.wandb import WandbCurve
from specexp.training.heads import Plan, States, Trainer, accuracies, places, table
from specexp.training.texts import Text, asked, beginnings, continued, documents, generated, read

CHECKPOINT = "checkpoint.pt"
ROUGH = 500  # tokens; the standard error of an accuracy of one half is 2 points there
HELD_OUT = 20  # one text in this many is for measuring, and the heads do not learn from it


def learnt_from(options: argparse.Namespace, model, tokenizer) -> tuple[list, list]:
    """(texts of which the target wrote the rest, texts as they were found). The former are kept in --out, as writing them takes long."""
    plain = list(itertools.islice(found(options, tokenizer), options.documents))
    count = round(options.written * len(plain))
    begun = beginnings(plain[:count], options.seed)
    own = [text for text in own_words(options, model, tokenizer, begun) if places(text)]
    others = [text for text in plain[count:] if places(text)]
    if len(own) + len(others) < 3:
        raise UserError(f"there is no text to learn from; give files ending in {', '.join(files.TEXT_SUFFIXES)}.")
    return own, others


def found(options: argparse.Namespace, tokenizer) -> Iterator[Text]:
    """The texts as they were found: documents, or, for a chat, what a user says in it."""
    told = files.texts(options.paths, options.key)
    if options.prompt_format == "chat":
        made = (prompt for prompt, _ in documents(options.documents, options.seed))
        return asked(Prompter(tokenizer), told if options.paths else made, options.length)
    return read(tokenizer, told, options.length) if options.paths else generated(tokenizer, options.documents, options.seed)


def own_words(options: argparse.Namespace, model, tokenizer, begun: list) -> list:
    """The beginnings with what the target writes after them; what an earlier call wrote is read from its file in --out."""
    writer = hashlib.sha256(repr((options.target, options.dtype, options.max_new_tokens)).encode()).hexdigest()[:8]
    progress = Progress(len(begun), "texts written by the target")
    ends, file = stop_ids(model, tokenizer), options.out / f"written_{writer}.jsonl"
    return list(continued(model, begun, options.max_new_tokens, ends, file, progress))


class Progress:
    """Prints a line every few seconds: how many of how many are done, and how long the rest will take."""

    def __init__(self, total: int, what: str, every: float = 10.0):
        self.total, self.what, self.every = total, what, every
        self.began = self.printed = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int) -> None:
        now, self.first = time.monotonic(), done if self.first is None else self.first
        if now - self.printed > self.every and done > self.first:
            self.printed = now
            left = (now - self.began) / (done - self.first) * (self.total - done)
            print(f"{done}/{self.total} {self.what}, {clock(left)} left", flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def show(row: dict, steps: int) -> None:
    accuracies = " ".join(f"{value:.3f}" for key, value in row.items() if key.startswith("accuracy_"))
    print(f"step {row['step']}/{steps} loss {row['loss']:.3f} accuracy {accuracies}, {clock(row['seconds_left'])} left", flush=True)


def target(options: argparse.Namespace):
    """(model, tokenizer). Raises UserError for a model without states that heads could read."""
    trusted = {"trust_remote_code": options.trust_remote_code, "allow_pickle": options.allow_pickle}
    spec = ModelSpec(options.target, options.dtype, options.device, **trusted)
    tokenizer = load_tokenizer(options.target, trust_remote_code=options.trust_remote_code, key="--target")
    tokenizer = with_template(tokenizer, options.chat_template)
    if options.prompt_format == "chat" and not Prompter(tokenizer).has_template:
        raise UserError(f"the tokenizer of {options.target} has no chat template; give --chat-template plain or --chat-template FILE.")
    model = load_model(spec, "--target")
    if model.config.is_encoder_decoder:
        raise UserError(f"{options.target} is an encoder-decoder model; heads are trained for decoder-only ones.")
    return model, tokenizer


def build(options: argparse.Namespace) -> None:
    """Trains the heads (or only loads them), measures and writes them."""
    _writable(options.out)
    if not options.measure and (options.out / WEIGHTS).is_file() and not (options.out / CHECKPOINT).is_file():
        raise UserError(f"--out {options.out} holds finished heads; choose another directory, or delete {WEIGHTS} there to train anew.")
    model, tokenizer = target(options)
    heads, facts = begun_with(options, model.get_output_embeddings().weight)
    own, others = learnt_from(options, model, tokenizer)
    rows: list[dict] = []
    if not options.measure:
        rest = [text for part in (own, others) for number, text in enumerate(part) if number % HELD_OUT]
        learnt, rows = trained(heads, States(model, rest, len(heads)), options)
        facts |= learnt
    heads = heads.eval().requires_grad_(False).to(torch.bfloat16).to(torch.float32)  # as they are stored
    held_out = (own or others)[::HELD_OUT]  # the target's own texts where there are any, since decoding reads such texts
    measured, count = accuracies(heads, States(model, held_out, len(heads)))
    print(table(measured))
    if count < ROUGH:
        print(f"measured on {count} tokens only, so these accuracies are rough; more texts (--documents) would make them sure")
    save(heads, options.out, facts | {"places_measured": count, "accuracies": measured})
    (options.out / CHECKPOINT).unlink(missing_ok=True)  # it is several times as large as the heads
    print(f"{options.out}  specexp method=medusa method.heads={options.out}")
    mirrored(rows, measured, options)


def _writable(directory: Path) -> None:
    """Makes the directory now, so that one that cannot be written is reported before the weights are loaded."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --out {directory} ({error.strerror}); choose another directory.") from error


def begun_with(options: argparse.Namespace, projection):
    """(heads in float32, what to write of them): those to be measured, or new ones that begin as the target's own `projection`."""
    facts = {"base_model_name_or_path": options.target, "prompt_format": options.prompt_format}
    if not options.measure:
        return MedusaHeads.beginning(projection, options.heads, options.layers), facts
    existing = HeadsFile(options.measure)
    existing.check(projection.shape[1], projection.shape[0], options.target)
    return existing.load().to(projection.device, torch.float32), existing.config | facts


def trained(heads, states, options: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Trains the heads to the end. Gives what to write about the training, and its history, which is on disk by then."""
    plan = Plan(options.epochs, options.batch, options.rate, seed=options.seed)
    trainer = Trainer(heads, states, plan, options.out / CHECKPOINT, options.target)
    trainer.resume()
    tokens = sum(len(text.ids) for text in states.texts)
    facts = {"texts": len(states.texts), "tokens": tokens, "steps": trainer.steps, "written": options.written}
    try:
        trainer.run(lambda row: show(row, trainer.steps))
    finally:
        write_whole(options.out / "curve.jsonl", "".join(to_json(row) + "\n" for row in trainer.curve))
    return facts, trainer.curve


def mirrored(rows: list[dict], measured: list[list[float]], options: argparse.Namespace) -> None:
    """Logs the history and the accuracies to W&B, after everything is on disk."""
    curve = WandbCurve(mode=options.wandb, directory=os.environ.get("WANDB_DIR", "."), tags=("medusa",))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items() if key != "paths"}
    curve.start(settings, options.out)
    accuracies = {f"head_{head}/top_{rank}": sum(row[:rank]) for head, row in enumerate(measured) for rank in range(1, len(row) + 1)}
    curve.finish(accuracies, rows)
