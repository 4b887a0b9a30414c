"""Tables as safetensors files: whole or not there, with what they were built from. Knows nothing of what the tensors mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specexp.assets import asset_path
from specexp.errors import UserError

BUILD = "build one: python -m specexp.drafters.tables --tokenizer NAME --out DIR"
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


class Vocabulary(Protocol):
    """entries: ids the pair's tokenizer knows. rows: V of the target's logits."""

    entries: int
    rows: int


@dataclass(frozen=True)
class Facts:
    """kind: "bigram" or "trigram". vocab_size: ids of the tokenizer that was used. tokens: how many were counted."""

    kind: str
    vocab_size: int
    tokenizer: str
    tokens: int


ADDED = 64  # ids that a tokenizer may have more than the one its table was built with: no draft says them


def save(path: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Integers are stored in the smallest type that holds them. Replaces `path` at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: _compact(tensor) for name, tensor in tensors.items()}, draft, {k: str(v) for k, v in asdict(facts).items()})
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # the directory itself may be missing, or no directory
            draft.unlink()
        raise UserError(f"cannot write {path} ({error}); choose another directory with --out DIR.") from error


def load(path: str, kind: str) -> tuple[dict[str, Tensor], Facts]:
    """The tensors, integers as int64, and the facts. `path` may be asset:NAME. UserError if there is no table of this kind."""
    place = asset_path(path)
    if not place.is_file():
        raise UserError(f"there is no {kind} table {place}; {BUILD}, and give its path (method.table=FILE for method=katz).")
    try:
        with safe_open(place, "pt") as file:
            meta, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place} cannot be read as safetensors ({error}); {BUILD}.") from error
    if meta.get("kind") != kind:
        raise UserError(f"{place} is no {kind} table but {meta.get('kind', 'something else')}; {BUILD}.")
    facts = Facts(kind, int(meta["vocab_size"]), meta["tokenizer"], int(meta["tokens"]))
    return {name: tensor if tensor.is_floating_point() else tensor.long() for name, tensor in tensors.items()}, facts


def check_vocabulary(facts: Facts, vocabulary: Vocabulary) -> None:
    """UserError unless the table is for as many ids as the pair's tokenizer has, but for a few added behind (padding, roles of a chat)."""
    if not 0 <= vocabulary.entries - facts.vocab_size <= ADDED:
        raise UserError(
            f"the {facts.kind} table was built for {facts.tokenizer} with {facts.vocab_size} ids, but this pair's tokenizer has "
            f"{vocabulary.entries}; {BUILD}, and give its path (method.table=FILE for method=katz)."
        )


def _compact(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or not tensor.numel():
        return tensor.contiguous()
    low, high = int(tensor.min()), int(tensor.max())
    fits = next(kind for kind in INTEGERS if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max)
    return tensor.to(fits).contiguous()
