"""Tokenizers: loading one, telling whether two mean the same, and the ids that end a text. Knows no decoding and no chat templates."""

from __future__ import annotations

from functools import lru_cache

from specexp.errors import UserError
from specexp.models.loading import explained
from specexp.models.preflight import locate, offline_where_possible, preflight_tokenizer


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False, key: str = "model_pair.tokenizer"):
    """The transformers tokenizer of a directory, Hub id or asset, loaded once. Raises UserError if it cannot be had."""
    preflight_tokenizer(name, revision, key)
    return _load(locate(name, key), revision, trust_remote_code)


@lru_cache(maxsize=8)
def _load(place: str, revision: str | None, trust_remote_code: bool):
    from transformers import AutoTokenizer

    with explained(f"the tokenizer of {place}"), offline_where_possible(place, trust_remote_code):
        return AutoTokenizer.from_pretrained(place, revision=revision or "main", trust_remote_code=trust_remote_code)


def check_same_tokenizer(target, draft, names: tuple[str, str]) -> None:
    """UserError unless every id stands for the same token in both. `names`: the target's and the draft's, for the message.

    Compares what the tokenizers know, added tokens included, not the models' (padded) numbers of rows. A padding token that only one of
    them has is let pass: no text contains it.
    """
    ours, theirs = _entries(target, draft), _entries(draft, target)
    if ours == theirs:
        return
    odd = min(ours.items() ^ theirs.items(), key=lambda entry: entry[1])
    raise UserError(
        f"{names[1]} cannot draft for {names[0]}: their tokenizers differ ({len(theirs)} and {len(ours)} entries, first at id {odd[1]}, "
        f"{odd[0]!r}); choose a draft of the target's family, or set model_pair.tokenizer=NAME if you know that their ids mean the same."
    )


def _entries(tokenizer, other) -> dict[str, int]:
    vocabulary = dict(tokenizer.get_vocab())
    roles = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    if tokenizer.pad_token not in roles and tokenizer.pad_token not in other.get_vocab():
        vocabulary.pop(tokenizer.pad_token, None)
    return vocabulary


def stop_ids(model, tokenizer) -> tuple[int, ...]:
    """Every id that ends a text, ascending: those of the generation settings (chat models have several), configuration and tokenizer.

    An encoder-decoder model's padding ends it too: T5 pads what it has finished, and nothing else means anything by it.
    """
    sources = [getattr(model.generation_config, "eos_token_id", None), getattr(model.config, "eos_token_id", None), tokenizer.eos_token_id]
    if model.config.is_encoder_decoder:
        sources.append(model.config.pad_token_id)
    return tuple(sorted({token for source in sources for token in _ids(source) if token >= 0}))


def _ids(source: int | list[int] | None) -> list[int]:
    if source is None:
        return []
    return [source] if isinstance(source, int) else list(source)
