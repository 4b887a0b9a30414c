"""Trains Medusa heads for a decoder-only model, which stays as it is: `python -m specexp.medusa --target NAME --out DIR`.

From text files, .jsonl files or directories of them; without any, from the project's own training corpus (evaluation tasks left out).
A part of the texts is what the target itself writes behind their beginnings. DIR then holds the heads, with their accuracy by head and
rank on held-out texts, for `python -m specexp method=medusa method.heads=DIR`; curve.jsonl is the training's history. The same command
goes on from DIR's checkpoint. `--measure HEADS` trains nothing: it measures heads that are there (published ones tell no accuracies)
and writes them with their accuracies into DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import logging
import os
import sys
import time
from pathlib import Path

from specexp.errors import UserError

HELD_OUT = 20  # one text in this many is measured on, and not learnt from


def learnt_from(options: argparse.Namespace, model, tokenizer) -> tuple[list, list]:
    """(what the target writes behind a share of them, the others as they are); the former are kept in DIR, as they take a while."""
    from specexp.datasets import files
    from specexp.training.heads import places
    from specexp.training.texts import beginnings, generated, read

    if options.paths:
        plain = list(itertools.islice(read(tokenizer, files.texts(options.paths, options.key), options.length), options.documents))
    else:
        plain = list(generated(tokenizer, options.documents, options.seed))
    count = round(options.written * len(plain))
    begun = beginnings(plain[:count], options.seed)
    own = [text for text in own_words(options, model, tokenizer, begun) if places(text)]
    others = [text for text in plain[count:] if places(text)]
    if len(own) + len(others) < 3:
        raise UserError(f"there is no text to learn from; give files ending in {', '.join(files.TEXT_SUFFIXES)}.")
    return own, others


def own_words(options: argparse.Namespace, model, tokenizer, begun: list) -> list:
    """What the target writes behind them, from a file in DIR as far as that goes; another target's words are in another file."""
    from specexp.models.pair import stop_ids
    from specexp.training.texts import continued

    writer = hashlib.sha256(repr((options.target, options.dtype, options.max_new_tokens)).encode()).hexdigest()[:8]
    progress = Progress(len(begun), "texts written by the target")
    ends, file = stop_ids(model, tokenizer), options.out / f"written_{writer}.jsonl"
    return list(continued(model, begun, options.max_new_tokens, ends, file, progress))


class Progress:
    """A line every few seconds: how many of how many, and how long it will take."""

    def __init__(self, total: int, what: str, every: float = 10.0):
        self.total, self.what, self.every = total, what, every
        self.began = self.told = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int) -> None:
        now, self.first = time.monotonic(), done if self.first is None else self.first
        if now - self.told > self.every and done > self.first:
            self.told = now
            left = (now - self.began) / (done - self.first) * (self.total - done)
            print(f"{done}/{self.total} {self.what}, {clock(left)} left", flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def show(row: dict, steps: int) -> None:
    accuracies = " ".join(f"{value:.3f}" for key, value in row.items() if key.startswith("accuracy_"))
    print(f"step {row['step']}/{steps} loss {row['loss']:.3f} accuracy {accuracies}, {clock(row['seconds_left'])} left", flush=True)


def target(options: argparse.Namespace):
    """(model, tokenizer). UserError where it has no states that heads could read."""
    from specexp.models.loading import load_model
    from specexp.models.pair import load_tokenizer
    from specexp.models.spec import ModelSpec

    trusted = {"trust_remote_code": options.trust_remote_code, "allow_pickle": options.allow_pickle}
    spec = ModelSpec(options.target, options.dtype, options.device, **trusted)
    model = load_model(spec, "--target")
    if model.config.is_encoder_decoder:
        raise UserError(f"{options.target} is an encoder-decoder model; heads are trained for decoder-only ones.")
    return model, load_tokenizer(options.target, trust_remote_code=options.trust_remote_code, key="--target")


def build(options: argparse.Namespace) -> None:
    """Train (or only load), measure, write."""
    import torch

    from specexp.models.heads import save
    from specexp.training.heads import States, accuracies, table

    _writable(options.out)
    model, tokenizer = target(options)
    heads, facts = begun_with(options, model.get_output_embeddings().weight)
    own, others = learnt_from(options, model, tokenizer)
    rows: list[dict] = []
    if not options.measure:
        rest = [text for part in (own, others) for number, text in enumerate(part) if number % HELD_OUT]
        told, rows = trained(heads, States(model, rest, len(heads)), options)
        facts |= told
    heads = heads.eval().requires_grad_(False).to(torch.bfloat16).to(torch.float32)  # as they are stored
    held_out = (own or others)[::HELD_OUT]  # own words, where there are any: what decoding will be like
    measured, places = accuracies(heads, States(model, held_out, len(heads)))
    print(table(measured))
    save(heads, options.out, facts | {"places_measured": places, "accuracies": measured})
    print(f"{options.out}  python -m specexp method=medusa method.heads={options.out}")
    mirrored(rows, measured, options)


def _writable(directory: Path) -> None:
    """Told before the weights are loaded."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --out {directory} ({error.strerror}); choose another directory.") from error


def begun_with(options: argparse.Namespace, projection):
    """(heads in float32, what their configuration tells): those to be measured, or new ones that begin as the target's own `projection`."""
    import torch

    from specexp.models.heads import HeadsFile, MedusaHeads

    facts = {"base_model_name_or_path": options.target}
    if not options.measure:
        return MedusaHeads.beginning(projection, options.heads, options.layers), facts
    existing = HeadsFile(options.measure)
    existing.check(projection.shape[1], projection.shape[0], options.target)
    return existing.load().to(projection.device, torch.float32), existing.config | facts


def trained(heads, states, options: argparse.Namespace) -> tuple[dict, list[dict]]:
    """The heads to the end of their training -> what their configuration tells of it, and its history, which is on disk by then."""
    from specexp.tracking.records import to_json, write_whole
    from specexp.training.heads import Plan, Trainer

    plan = Plan(options.epochs, options.batch, options.rate, seed=options.seed)
    trainer = Trainer(heads, states, plan, options.out / "checkpoint.pt", options.target)
    trainer.resume()
    tokens = sum(len(text.ids) for text in states.texts)
    facts = {"texts": len(states.texts), "tokens": tokens, "steps": trainer.steps, "written": options.written}
    try:
        trainer.run(lambda row: show(row, trainer.steps))
    finally:
        write_whole(options.out / "curve.jsonl", "".join(to_json(row) + "\n" for row in trainer.curve))
    return facts, trainer.curve


def mirrored(rows: list[dict], measured: list[list[float]], options: argparse.Namespace) -> None:
    """The history and the accuracies to W&B, when all is on disk."""
    from specexp.tracking.wandb import WandbCurve

    curve = WandbCurve(mode=options.wandb, directory=os.environ.get("WANDB_DIR", "."), tags=("medusa",))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items() if key != "paths"}
    curve.start(settings, options.out)
    accuracies = {f"head_{head}/top_{rank}": sum(row[:rank]) for head, row in enumerate(measured) for rank in range(1, len(row) + 1)}
    curve.finish(accuracies, rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m specexp.medusa", description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("paths", nargs="*", type=Path, help="text files, .jsonl files, directories; none: the generated corpus")
    add("--target", required=True, help="a directory, a Hub id, or asset:NAME")
    add("--out", type=Path, required=True, help="directory of the heads, the checkpoint and the curve")
    add("--measure", metavar="HEADS", help="measure these heads (a directory, a Hub id) instead of training some")
    add("--heads", type=int, default=4, help="how many tokens are guessed behind the next one")
    add("--layers", type=int, default=1, help="residual blocks of each head")
    add("--documents", type=int, default=4000, help="how many texts at most")
    add("--length", type=int, default=512, help="longer files are read in parts of so many ids")
    add("--written", type=float, default=0.5, help="share of the texts that the target itself writes behind their beginnings")
    add("--max-new-tokens", type=int, default=128, help="of what the target writes")
    add("--epochs", type=float, default=3.0)
    add("--batch", type=int, default=16, help="texts in a step")
    add("--rate", type=float, default=1e-3, help="highest learning rate")
    add("--seed", type=int, default=0)
    add("--key", default="text", help="the field of .jsonl lines that holds the text")
    add("--dtype", default="auto", help="of the target; heads learn in float32")
    add("--device", default="auto")
    add("--trust-remote-code", action="store_true", help="run code that the target's repository brings")
    add("--allow-pickle", action="store_true", help="take the target's pickled weights where there are no others")
    add("--wandb", default="disabled", choices=("disabled", "auto", "online", "offline"), help="mirror the curve to Weights & Biases")
    return checked(parser.parse_args(arguments))


def checked(options: argparse.Namespace) -> argparse.Namespace:
    for name in ("heads", "layers", "documents", "length", "max_new_tokens", "epochs", "batch", "rate"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} does not fit; give more than 0.")
    if not 0 <= options.written <= 1:
        raise UserError(f"--written {options.written} is no share; give 0 to 1.")
    return options


def main(arguments: list[str] | None = None) -> None:
    try:
        options = parse(arguments)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        os.nice(19)
        build(options)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped.")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
