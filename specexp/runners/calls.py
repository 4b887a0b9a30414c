"""What an architecture can do is a fact about it, looked up once when a runner is built and refused there.

A model type that is not listed runs through transformers' own masks, which is right for chains and impossible for trees.

How a decoder-only model is called: the prompt is the beginning of the text. Keeps nothing between calls; the cache is the caller's.

How an encoder-decoder model of the T5 family is called: the prompt is read once by the encoder, and the text that the decoder writes
begins with a start token of its own.

The encoder runs with the first pass after `start` (a draft that is never asked costs nothing); the keys and values of the cross-attention
are computed in that pass and kept. Positions are relative and counted from the cache's length: chains only, no token trees.
Knows nothing of drafts, nor what the slots of the cache spell.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specexp.runners.caches import FullCache, SourceCache

# Model types tested (tests/decoding/test_lossless_models.py) to take an additive [1, 1, rows, slots] mask as it is and positions as given.
_OWN_MASKS = frozenset({"llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral", "opt", "phi", "gptj", "t5", "mt5"})
_SLIDING = frozenset({"sliding_attention", "chunked_attention", "linear_attention", "conv", "hybrid"})


@dataclass(frozen=True)
class Architecture:
    """own_masks: takes our masks (needed for trees). positions, trims_logits: its forward has `position_ids`, `logits_to_keep`."""

    model_type: str
    own_masks: bool
    positions: bool
    trims_logits: bool

    @property
    def trees(self) -> bool:
        return self.own_masks and self.positions

    @classmethod
    def of(cls, model: object) -> Architecture:
        config = model.config
        parameters = inspect.signature(model.forward).parameters
        plain = config._attn_implementation in ("sdpa", "eager")
        return cls(
            model_type=config.model_type,
            own_masks=own_masks(config) and plain,
            positions="position_ids" in parameters,
            trims_logits="logits_to_keep" in parameters,
        )


def own_masks(config: object) -> bool:
    """Whether a model of this configuration takes our masks, if its attention is transformers' sdpa or eager one."""
    return config.model_type in _OWN_MASKS and not slides(config)


def slides(config: object) -> bool:
    """Some layer sees only a window: a full causal mask of ours would show it too much."""
    layers = set(getattr(config, "layer_types", None) or ())
    return bool(layers & _SLIDING) or (not layers and getattr(config, "sliding_window", None) is not None)


class DecoderOnlyPass:
    """model: a causal LM. known_ids: brings ids into the range of its embeddings."""

    source_bytes = 0

    def __init__(self, model: torch.nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        self.model, self.architecture, self.known_ids = model, architecture, known_ids

    def start(self, prompt: Sequence[int]) -> list[int]:
        """The ids that the context begins with."""
        return list(prompt)

    def reserve(self, length: int) -> None:
        """Make what passes over texts of up to `length` tokens look up, so that nothing is made while they run."""

    def full(self, tokens: Tensor, rows: int) -> Tensor:
        """[n] tokens, all there are -> [rows, V] logits of the last rows."""
        return self.model(input_ids=self.known_ids(tokens)[None], use_cache=False).logits[0, -rows:]

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: object, rows: int) -> Tensor:
        """[n] tokens and their positions, behind what the cache holds -> [rows, V]; their keys and values are written into the cache."""
        inputs = {"position_ids": positions[None]} if self.architecture.positions else {}
        if self.architecture.trims_logits:
            inputs["logits_to_keep"] = rows
        output = self.model(input_ids=self.known_ids(tokens)[None], attention_mask=mask, past_key_values=cache, use_cache=True, **inputs)
        return output.logits[0] if self.architecture.trims_logits else output.logits[0, -rows:]


class EncoderDecoderPass:
    """model: a T5 or one built like it. known_ids: brings ids into the range of its embeddings."""

    def __init__(self, model: torch.nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        self.model, self.architecture, self.known_ids = model, architecture, known_ids
        self._source: Tensor | None = None  # [1, source tokens]
        self._encoded: Tensor | None = None  # [1, source tokens, d_model]
        self._cache: SourceCache | None = None

    @property
    def source_bytes(self) -> int:
        """Of the cross-attention's keys and values; 0 before the first pass."""
        return 0 if self._cache is None else self._cache.source_bytes

    def start(self, prompt: Sequence[int]) -> list[int]:
        """Bind the source, and give the ids that the context begins with."""
        self._source = self.known_ids(torch.tensor([list(prompt)], device=self.model.device))
        self._encoded = self._cache = None
        return [decoder_start(self.model)]

    def full(self, tokens: Tensor, rows: int) -> Tensor:
        """[n] tokens, all that the decoder has -> [rows, V] logits of the last rows, the source read again."""
        output = self.model(input_ids=self._source, decoder_input_ids=self.known_ids(tokens)[None], use_cache=False)
        return output.logits[0, -rows:]

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: FullCache, rows: int) -> Tensor:
        """[n] tokens behind what the cache holds -> [rows, V]. The model counts the positions itself."""
        if self._cache is None:
            self._encoded = self.model.get_encoder()(input_ids=self._source).last_hidden_state
            self._cache = SourceCache(cache)
        output = self.model(
            encoder_outputs=(self._encoded,),
            decoder_input_ids=self.known_ids(tokens)[None],
            decoder_attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.logits[0, -rows:]


def decoder_start(model: torch.nn.Module) -> int:
    """The id that every text begins with and that is no part of it (T5: the padding token)."""
    for settings in (model.generation_config, model.config):
        if (token := getattr(settings, "decoder_start_token_id", None)) is not None:
            return token
    return model.config.pad_token_id


LENGTH_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def context_length(config) -> int | None:
    """The number of positions the model of `config` has; None where its positions are relative (ALiBi, T5) and have no end."""
    config = config.get_text_config(decoder=True)
    if _relative(config):
        return None
    lengths = (getattr(config, key, None) for key in LENGTH_KEYS)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def looked_up_positions(config) -> int | None:
    """The number of positions that the model of `config` reads from a table (learned ones, or GPT-J's), beyond which it fails; None where
    positions are computed, as rotary ones are."""
    return None if getattr(config, "rope_parameters", None) else context_length(config)


def _relative(config) -> bool:
    attention = getattr(config, "attn_config", None) or {}  # MPT's; a dict or a configuration of its own
    alibi = attention.get("alibi") if isinstance(attention, dict) else getattr(attention, "alibi", False)
    biased = alibi or getattr(config, "alibi", False) or hasattr(config, "relative_attention_num_buckets")
    return bool(biased) or config.model_type == "bloom"
