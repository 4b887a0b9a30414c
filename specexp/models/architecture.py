"""What an architecture can do is a fact about it, looked up once when a runner is built and refused there.

A model type that is not listed runs through transformers' own masks, which is right for chains and impossible for trees.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

# Model types tested (tests/test_lossless_models.py) to take an additive [1, 1, rows, slots] mask as it is and positions as given.
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
