"""Text that a model writes by itself, sampled from nothing but its start token: what a table that imitates the model is counted from.

Staged speculative decoding (arXiv:2308.04623, section 4) samples 120 million tokens of its draft at temperature 1.5. Knows nothing of
tables. The text depends on seed, temperature and batch size; not on how much of it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from specexp.errors import UserError
from specexp.models.loading import load_model
from specexp.models.pair import entries, output_rows
from specexp.models.spec import ModelSpec
from specexp.models.tokenizer import stop_ids

BATCH, LENGTH = 64, 256  # texts at once, most tokens of each


def written(name: str, tokenizer, temperature: float, documents: int, seed: int) -> Iterator[list[int]]:
    """The ids of so many texts, each with the token that ends it; all are ids that the tokenizer knows.

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


def _to_its_end(ids: list[int], ends: Collection[int]) -> list[int]:
    return ids[: next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))]
