"""Moving cached keys to other positions: which architectures allow it, and how their keys are turned.

Rotary positions compose: a key of position t turned on by -n is the key of position t - n. ALiBi and T5's biases are added to the scores
by distance, and keys hold no position. Learned positions are mixed into what the layers compute and cannot be taken out again.
What an architecture does is listed here by model type; a type that is not listed is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from specexp.errors import UserError
from specexp.models.architecture import slides

HALVES = frozenset({"llama", "gpt_neox", "qwen2", "qwen3", "mistral", "phi"})  # dimension i turns with i + d/2
NEIGHBOURS = frozenset({"gptj"})  # dimension 2i turns with 2i + 1
UNROTATED = frozenset({"bloom", "mpt", "t5", "mt5"})  # biases by distance, counted from the cache's length
LEARNED = frozenset({"gpt2", "gpt_neo", "opt"})
STEADY = ("default", "linear", "llama3", "yarn")  # rotary types whose frequencies do not depend on the text's length


def check_keys_move(config, name: str) -> None:
    """UserError for a model (by its configuration, without weights) whose cached keys cannot be moved to other positions."""
    kind = config.model_type
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind in LEARNED:
        reason = "which learns a vector for every position, so that kept tokens cannot move up when others are evicted"
    elif kind not in HALVES | NEIGHBOURS | UNROTATED:
        reason = f"and cache=sink knows {', '.join(sorted(HALVES | NEIGHBOURS | UNROTATED))}"
    elif slides(config):
        reason = "some layers of which forget by a sliding window of their own"
    elif rope not in STEADY:
        reason = f"whose rotary positions of type {rope} change with the length of the text"
    else:
        return
    raise UserError(f"{name} is a {kind} model, {reason}: choose cache=full (specexp.perplexity: ~caches.window ~caches.sink), or another.")


@dataclass(frozen=True, eq=False)
class KeyRotation:
    """frequencies: [d/2] float64 radians per position, for the first d dimensions of each head. neighbours: (2i, 2i + 1) turn together."""

    frequencies: Tensor
    neighbours: bool
    _known: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: torch.nn.Module) -> KeyRotation | None:
        """What the model's own layers do to keys; None where they leave them alone. UserError where keys cannot be moved."""
        config = model.config
        check_keys_move(config, getattr(config, "name_or_path", "") or "the model")
        if config.model_type in UNROTATED:
            return None
        if config.model_type in NEIGHBOURS:
            width = config.rotary_dim or config.n_embd
            return cls((1.0 / 10000 ** (torch.arange(0, width, 2) / width)).double(), neighbours=True)
        return cls(model.base_model.rotary_emb.inv_freq.cpu().double(), neighbours=False)  # not every device has float64

    def turned(self, keys: Tensor, by: int) -> Tensor:
        """[1, H, n, D] keys -> what they are `by` positions further on: a new tensor in float32 or better.

        A scale that the model puts on cosine and sine (yarn) is in the keys already and is not applied again.
        """
        turned = keys.to(torch.promote_types(keys.dtype, torch.float32), copy=True)
        cos, sin = self._angles(by, turned.dtype, turned.device)
        first, second = self._pairs(turned)
        ahead = second * cos + first * sin
        first.copy_(first * cos - second * sin)
        second.copy_(ahead)
        return turned

    def _pairs(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the dimensions that turn together, [1, H, n, d/2] each."""
        count = self.frequencies.shape[0]
        if self.neighbours:
            return keys[..., 0 : 2 * count : 2], keys[..., 1 : 2 * count : 2]
        return keys[..., :count], keys[..., count : 2 * count]

    def _angles(self, by: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (by, dtype, device)
        if key not in self._known:
            angles = by * self.frequencies
            self._known[key] = (angles.cos().to(device, dtype), angles.sin().to(device, dtype))
        return self._known[key]
