"""Texts from which Medusa heads and n-gram tables learn: texts of files, of the project's own corpus generator, and texts that a model
writes.

Heads learn in part from what their target writes after the beginnings of texts, because that is what they will read in greedy decoding. A
table that imitates a model is counted from text that this model samples from its start token alone; staged speculative decoding
(arXiv:2308.04623, section 4) samples 120 million tokens of its draft at temperature 1.5. That text depends on seed, temperature and batch
size, and not on how much of it is asked for. Generated texts are functions of (seed, number), and no evaluation task is among them
(grammar.py's rule). Texts for heads begin with the ids that a prompt of the same words has (text/__init__.py). This module knows
tokenizers and models and nothing of heads and tables.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from specexp.errors import UserError
from specexp.models.loading import load_model
from specexp.models.pair import entries, output_rows, stop_ids
from specexp.models.spec import ModelSpec
from specexp.text import Prompter, answered_ids, leading_ids
from specexp.training.corpus import article_document, function_document

WIDEST = 32  # texts written side by side


@dataclass(frozen=True)
class Text:
    """The ids of one document. start: the first id that does not belong to the prompt; heads learn only from the id before it on."""

    ids: tuple[int, ...]
    start: int = 0


def documents(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of the corpus generator: three tasks to each article; before every second task stands another one."""
    rng = random.Random(f"{seed}/medusa")
    for number in range(count):
        *before, answer = article_document(rng) if number % 4 == 3 else function_document(rng, 1 + number % 2)
        yield "".join(before), answer


def generated(tokenizer, count: int, seed: int) -> Iterator[Text]:
    """Documents of the corpus generator."""
    for prompt, answer in documents(count, seed):
        ids, start = answered_ids(tokenizer, prompt, answer)
        yield Text((*ids, *_end(tokenizer)), start)


def asked(prompter: Prompter, documents: Iterable[str], length: int) -> Iterator[Text]:
    """Documents as what a user says in a chat, up to where the answer begins; those of more than `length` ids are left out. Only what the
    target answers can follow, since a document's own words do not.
    """
    for document in documents:
        ids = prompter.chat_ids([{"role": "user", "content": document}])
        if len(ids) <= length:
            yield Text(tuple(ids), len(ids))


def read(tokenizer, documents: Iterable[str], length: int) -> Iterator[Text]:
    """Documents as they are, in parts of at most `length` ids. Each part begins as a prompt does, with what the tokenizer puts there."""
    leading = leading_ids(tokenizer)
    size = max(1, length - len(leading))
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"] + _end(tokenizer)
        ids = ids[len(leading) :] if ids[: len(leading)] == leading else ids  # the document spells it
        yield from (Text((*leading, *ids[at : at + size])) for at in range(0, len(ids), size))


def beginnings(texts: Sequence[Text], seed: int) -> list[Text]:
    """What the target continues: each text's prompt, or, where there is none, a quarter to a half of the text."""
    rng = random.Random(f"{seed}/beginnings")
    cuts = [text.start or max(1, int(len(text.ids) * rng.uniform(0.25, 0.5))) for text in texts]
    return [Text(text.ids[:cut], cut) for text, cut in zip(texts, cuts, strict=True)]


def continued(model: torch.nn.Module, begun: Sequence[Text], max_new_tokens: int, ends: Sequence[int], file: Path, done) -> Iterator[Text]:
    """Each of `begun` followed by the model's greedy text, to its end. What `file` holds already is not written again; the rest is added
    to it.

    done: is called with how many texts are written. Raises UserError if the file holds continuations of other beginnings.
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
    """The continued texts in their order. Neighbours are decoded together; shorter ones are padded at the start, where the attention mask
    hides it.
    """
    settings = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": max_new_tokens}
    settings |= {"pad_token_id": ends[0] if ends else 0, "eos_token_id": list(ends) or None}
    for part in batched(begun, WIDEST):
        longest = max(len(text.ids) for text in part)
        padding = [longest - len(text.ids) for text in part]
        ids = torch.tensor([[settings["pad_token_id"]] * pad + list(text.ids) for pad, text in zip(padding, part, strict=True)])
        mask = (torch.arange(longest) >= torch.tensor(padding)[:, None]).long()
        rows = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), **settings).tolist()
        yield from (Text(tuple(_to_its_end(row[pad:], ends, longest - pad)), longest - pad) for row, pad in zip(rows, padding, strict=True))


def batched(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    texts = iter(texts)
    while part := list(islice(texts, size)):
        yield part


def _line(text: Text) -> str:
    return json.dumps([text.start, text.ids]) + "\n"


def _kept(file: Path, begun: Sequence[Text]) -> list[Text]:
    """The complete lines of the file."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    kept = [Text(tuple(ids), start) for start, ids in (json.loads(line) for line in lines if line.endswith("\n"))]
    if any(text.ids[: text.start] != prompt.ids for text, prompt in zip(kept, begun, strict=False)) or len(kept) > len(begun):
        raise UserError(f"{file} holds continuations of other texts; repeat that command, or choose another --out DIR.")
    return kept


def _to_its_end(ids: list[int], ends: Collection[int], start: int = 0) -> list[int]:
    """Up to and with the first end from `start` on."""
    return ids[: next((place + 1 for place in range(start, len(ids)) if ids[place] in ends), len(ids))]


def _end(tokenizer) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


BATCH, LENGTH = 64, 256  # texts at once, most tokens of each


def sampled_texts(name: str, tokenizer, temperature: float, documents: int, seed: int) -> Iterator[list[int]]:
    """The ids of `documents` texts, each with the token that ends it; the tokenizer knows all of these ids.

    Raises UserError for a model that has no token to begin with, or that does not know all of these ids.
    """
    import torch

    if temperature <= 0:
        raise UserError(f"--temperature {temperature:g} draws nothing; give one above 0 (the paper: 1.5).")
    model = load_model(ModelSpec(name), "--written")
    first = next((t for t in (getattr(model.config, key, None) for key in ("bos_token_id", "eos_token_id")) if isinstance(t, int)), None)
    if first is None or model.config.is_encoder_decoder:
        raise UserError(f"{name} has no token that texts begin with; count text files instead: python -m specexp.tables FILES.")
    rows, known = output_rows(model), entries(tokenizer)
    if rows < known:
        raise UserError(f"{name} has {rows} ids and the tokenizer {known}; give --tokenizer the model's own.")
    settings = _settings(stop_ids(model, tokenizer), temperature) | {"suppress_tokens": list(range(known, rows)) or None}
    torch.manual_seed(seed)
    while documents > 0:
        yield from _batch(model, first, settings)[:documents]
        documents -= BATCH


def _settings(ends: Sequence[int], temperature: float) -> dict[str, object]:
    return {
        "do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "max_new_tokens": LENGTH,
        "eos_token_id": list(ends) or None, "pad_token_id": ends[0] if ends else 0,
    }  # fmt: skip


def _batch(model, first: int, settings: dict[str, object]) -> list[list[int]]:
    import torch

    start = torch.full((BATCH, 1), first, device=model.device)
    with torch.inference_mode():
        ids = model.generate(start, attention_mask=torch.ones_like(start), **settings)
    return [_to_its_end(row, settings["eos_token_id"] or ()) for row in ids[:, 1:].tolist()]
