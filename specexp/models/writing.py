"""Text that a model writes by itself, sampled from nothing but its start token: what a table that imitates the model is counted from.

Staged speculative decoding (arXiv:2308.04623, section 4) samples 120 million tokens of its draft at temperature 1.5. Knows nothing of
tables. The text depends on seed, temperature and batch size; not on how much of it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from specexp.errors import UserError
from specexp.models.loading import load_model
from specexp.models.spec import ModelSpec

BATCH, LENGTH = 64, 256  # texts at once, most tokens of each


def written(name: str, temperature: float, documents: int, seed: int) -> Iterator[list[int]]:
    """The ids of so many texts, each with the token that ends it. Raises UserError for a model that has no token to begin with."""
    import torch

    if temperature <= 0:
        raise UserError(f"--temperature {temperature:g} draws nothing; give one above 0 (the paper: 1.5).")
    model = load_model(ModelSpec(name), "--model")
    first = next((t for t in (model.config.bos_token_id, model.config.eos_token_id) if isinstance(t, int)), None)
    if first is None or model.config.is_encoder_decoder:
        raise UserError(f"{name} has no token that texts begin with; count text files instead: python -m specexp.drafters.tables FILES.")
    torch.manual_seed(seed)
    while documents > 0:
        yield from _batch(model, first, temperature)[:documents]
        documents -= BATCH


def _batch(model, first: int, temperature: float) -> list[list[int]]:
    import torch

    start = torch.full((BATCH, 1), first, device=model.device)
    with torch.inference_mode():
        ids = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
            max_new_tokens=LENGTH, pad_token_id=-1,
        )
    return [[token for token in row if token >= 0] for row in ids[:, 1:].tolist()]
