"""How long a text may be with a model, and what changes with its length: positions, rotations, windows, states. All of it is read off a
model's configuration, before any weights are loaded, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping

STATES = frozenset({"linear_attention", "conv", "mamba", "hybrid", "recurrent"})
SLIDING = frozenset({"sliding_attention", "chunked_attention"}) | STATES
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def context_length(config) -> int | None:
    """Return the number of positions of a model with this configuration, or None if its positions are relative (ALiBi, T5) and have no
    end."""
    config = config.get_text_config(decoder=True)
    if _relative(config):
        return None
    lengths = (getattr(config, key, None) for key in LENGTH_KEYS)
    longest = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    return None if longest is None else max(longest, *map(_stretched, rotations(config)), 0)


def rotations(config) -> list[Mapping]:
    """Return the settings of a model's rotary positions: one for all layers, or one for each kind of layer. There is none for a model
    without rotary positions."""
    settings = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [each for each in settings.values() if isinstance(each, Mapping)] or ([settings] if settings else [])


def _stretched(rotation: Mapping) -> int:
    """Return the length that YaRN stretches positions to, 0 for other rotations. A model card of 32,768 positions that asks for the factor
    4 means 131,072; many configurations have that number in their length already."""
    length = rotation.get("original_max_position_embeddings")
    return int(length * rotation.get("factor", 1)) if rotation.get("rope_type") == "yarn" and length else 0


def switch_length(config) -> int | None:
    """Return the length beyond which a model rotates all positions of a text otherwise (longrope), those that are cached already too; None
    for most models. A text that crosses this length while it is written has keys of both kinds."""
    text = config.get_text_config(decoder=True)
    own = getattr(text, "original_max_position_embeddings", None)
    lengths = [each.get("original_max_position_embeddings", own) for each in rotations(text) if each.get("rope_type") == "longrope"]
    return min((length for length in lengths if length), default=None)


def extended_length(config, length: int) -> str | None:
    """Return why texts of `length` tokens are not possible with this model though its configuration was overridden; None where they are."""
    table, own = looked_up_positions(config), context_length(config)
    if table is not None and length > table:
        return f"it looks its positions up in a table of {table}"
    if own is not None and length > own and any(each.get("rope_type") == "dynamic" for each in rotations(config)):
        return f"beyond {own} tokens its rotary positions change with every token"
    return None


def keeps_state(config) -> bool:
    """Whether layers of this model keep a state that every token changes, in place of keys and values. Such a state cannot be taken back to
    an earlier token. transformers says so of its own models; of others the layers' kinds may."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return bool(kinds & STATES) or any(getattr(each, "_is_stateful", False) for each in (known if isinstance(known, tuple) else (known,)))


def looked_up_positions(config) -> int | None:
    """Return the number of positions that a model with this configuration looks up in a table (learned ones, or GPT-J's) and beyond which
    it fails. It is None for positions that are computed, as rotary ones are."""
    return None if getattr(config, "rope_parameters", None) else context_length(config)


def _relative(config) -> bool:
    attention = getattr(config, "attn_config", None) or {}  # of MPT: a dict or a configuration object
    alibi = attention.get("alibi") if isinstance(attention, dict) else getattr(attention, "alibi", False)
    biased = alibi or getattr(config, "alibi", False) or hasattr(config, "relative_attention_num_buckets")
    return bool(biased) or config.model_type == "bloom"


def within_window(longest: int | None, config: object) -> int | None:
    """Return the longest text that no sliding window of the model is too short for: until then every layer sees all of it, and one mask is
    right for all. longest: what else limits the text."""
    return longest if not slides(config) else min(length for length in (longest, config.sliding_window) if length is not None)


def slides(config: object) -> bool:
    """Whether some layer sees only a window of the text. A full causal mask of ours would show such a layer too much."""
    layers = set(getattr(config, "layer_types", None) or ())
    return bool(layers & SLIDING) or (not layers and getattr(config, "sliding_window", None) is not None)
