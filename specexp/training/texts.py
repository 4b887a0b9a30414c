"""Texts that Medusa heads learn from: of files, of the project's own corpus generator, and what the target itself writes behind their
beginnings, which is what the heads will really read in greedy decoding.

Functions of (seed, number) alone, but for what the target writes. Knows tokenizers and models; nothing of heads. No evaluation task is
among the generated ones (grammar.py's rule).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from specexp.errors import UserError

WIDEST = 32  # texts written side by side


@dataclass(frozen=True)
class Text:
    """ids of one document. start: the first id that is not the prompt's; only what is read from the id before it on is learnt from."""

    ids: tuple[int, ...]
    start: int = 0


def generated(tokenizer, documents: int, seed: int) -> Iterator[Text]:
    """Documents of the corpus generator: one article to three tasks, of which every second has another one before it."""
    from specexp.training.corpus import article_document, function_document

    rng, end = random.Random(f"{seed}/medusa"), _end(tokenizer)
    for number in range(documents):
        pieces = article_document(rng) if number % 4 == 3 else function_document(rng, 1 + number % 2)
        encoded = tokenizer(pieces, add_special_tokens=False)["input_ids"]
        ids = [token for piece in encoded for token in piece] + end
        yield Text(tuple(ids), sum(map(len, encoded[:-1])))


def read(tokenizer, documents: Iterable[str], length: int) -> Iterator[Text]:
    """Documents as they are, in parts of at most `length` ids."""
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"] + _end(tokenizer)
        yield from (Text(tuple(ids[at : at + length])) for at in range(0, len(ids), length))


def beginnings(texts: Sequence[Text], seed: int) -> list[Text]:
    """What to have the target go on from: each text's prompt; where there is none, a quarter to a half of the text."""
    rng = random.Random(f"{seed}/beginnings")
    cuts = [text.start or max(1, int(len(text.ids) * rng.uniform(0.25, 0.5))) for text in texts]
    return [Text(text.ids[:cut], cut) for text, cut in zip(texts, cuts, strict=True)]


def continued(model: torch.nn.Module, begun: Sequence[Text], max_new_tokens: int, ends: Sequence[int], file: Path, done) -> Iterator[Text]:
    """Each of them with the model's greedy text behind it, to its end. What `file` holds is not written again; the rest is added to it.

    done: is told how many there are. UserError if the file holds what became of other beginnings.
    """
    begun = sorted(begun, key=lambda text: len(text.ids))
    kept = _kept(file, begun)
    yield from kept
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(_line(text) for text in kept)
        stream.flush()
        for count, text in enumerate(written(model, begun[len(kept) :], max_new_tokens, ends), len(kept) + 1):
            stream.write(_line(text))
            stream.flush()
            done(count)
            yield text


@torch.inference_mode()
def written(model: torch.nn.Module, begun: Sequence[Text], max_new_tokens: int, ends: Sequence[int]) -> Iterator[Text]:
    """In their order; neighbours go through together, shorter ones padded before, where the attention mask hides it."""
    settings = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": max_new_tokens}
    settings |= {"pad_token_id": ends[0] if ends else 0, "eos_token_id": list(ends) or None}
    for part in batched(begun, WIDEST):
        longest = max(len(text.ids) for text in part)
        padding = [longest - len(text.ids) for text in part]
        ids = torch.tensor([[settings["pad_token_id"]] * pad + list(text.ids) for pad, text in zip(padding, part, strict=True)])
        mask = (torch.arange(longest) >= torch.tensor(padding)[:, None]).long()
        rows = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), **settings).tolist()
        yield from (Text(_to_its_end(row[pad:], longest - pad, ends), longest - pad) for row, pad in zip(rows, padding, strict=True))


def batched(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    texts = iter(texts)
    while part := list(islice(texts, size)):
        yield part


def _line(text: Text) -> str:
    return json.dumps([text.start, text.ids]) + "\n"


def _kept(file: Path, begun: Sequence[Text]) -> list[Text]:
    """The whole lines of the file."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    kept = [Text(tuple(ids), start) for start, ids in (json.loads(line) for line in lines if line.endswith("\n"))]
    if any(text.ids[: text.start] != prompt.ids for text, prompt in zip(kept, begun, strict=False)) or len(kept) > len(begun):
        raise UserError(f"{file} holds what was written behind other texts; repeat that command, or choose another --out DIR.")
    return kept


def _to_its_end(ids: list[int], start: int, ends: Sequence[int]) -> tuple[int, ...]:
    last = next((place for place in range(start, len(ids)) if ids[place] in ends), len(ids) - 1)
    return tuple(ids[: last + 1])


def _end(tokenizer) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
