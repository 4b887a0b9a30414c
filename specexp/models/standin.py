"""A stand-in is a Llama of any larger shape that computes exactly what a small one computes, at the larger one's cost. Speed can so be
measured at shapes whose weights cannot be had.

The growth preserves the function (Net2Net, Chen et al. 2016, arXiv:1511.05641). The residual stream, embeddings and output projections are
padded with zeros. Norm weights and their epsilon are rescaled, since the mean is taken over more numbers. Each head lies inside a larger
head, where its rotated pairs keep their frequencies and its queries are rescaled for the larger head's 1/sqrt(d). Further heads and layers
compute on random weights, and their results are multiplied by zeros. Further ids get logits of -inf. Every matrix is multiplied in full:
nothing is skipped.

The logits are not promised to be the small model's to the last bit: sums are taken in other orders, and in 16 bits rescaled weights are
rounded again. Quantised stand-ins are not made. This module knows transformers' Llama and nothing of loading, pairs or decoding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from specexp.errors import UserError
from specexp.models.spec import LlamaShape

INNER_STD = 0.02  # of the random weights, as most models begin with
POOL = 1 << 22  # so many random numbers are made; larger matrices repeat them, which is faster than drawing more


@dataclass(frozen=True)
class Placement:
    """Where the heads of a small attention lie in a larger one. `shared`: how many small key-value heads lie in each large one; `fits`:
    how many can.

    The frequencies of a large head are the small head's, each repeated `fits` times, so that it can hold that many small heads side by
    side.
    """

    small: LlamaShape
    large: LlamaShape

    @property
    def fits(self) -> int:
        return self.large.head_dim // self.small.head_dim

    @property
    def shared(self) -> int:
        return ceil(self.small.kv_heads / self.large.kv_heads)

    @property
    def queries(self) -> list[int]:
        """For each small query head, the large head that it lies in."""
        group, wide = self.small.heads // self.small.kv_heads, self.large.heads // self.large.kv_heads
        return [head // group // self.shared * wide + head % (group * self.shared) for head in range(self.small.heads)]

    @property
    def query_rows(self) -> Tensor:
        """For each row of the small query projection, its row in the large one."""
        group = self.small.heads // self.small.kv_heads
        return torch.cat([self._rotated(large, head // group % self.shared) for head, large in enumerate(self.queries)])

    @property
    def key_rows(self) -> Tensor:
        return torch.cat([self._rotated(head // self.shared, head % self.shared) for head in range(self.small.kv_heads)])

    @property
    def value_rows(self) -> Tensor:
        return torch.cat([self._plain(head // self.shared, head % self.shared) for head in range(self.small.kv_heads)])

    @property
    def output_columns(self) -> Tensor:
        group = self.small.heads // self.small.kv_heads
        return torch.cat([self._plain(large, head // group % self.shared) for head, large in enumerate(self.queries)])

    def _rotated(self, head: int, slot: int) -> Tensor:
        """The rows of one small head: its pair i, (i, i + d/2), becomes pair j = i fits + slot of the large one, (j, j + D/2)."""
        pairs = torch.arange(self.small.head_dim // 2) * self.fits + slot
        return head * self.large.head_dim + torch.cat([pairs, pairs + self.large.head_dim // 2])

    def _plain(self, head: int, slot: int) -> Tensor:
        return head * self.large.head_dim + slot * self.small.head_dim + torch.arange(self.small.head_dim)

    def frequencies(self, small: Tensor) -> Tensor:
        """The frequencies [D/2] of the large head from those [d/2] of the small one; pairs that hold nothing are not rotated."""
        repeated = small.repeat_interleave(self.fits)
        return nn.functional.pad(repeated, (0, self.large.head_dim // 2 - repeated.shape[0]))


class MaskedHead(nn.Linear):
    """The output projection at full width. Ids from `known` on get -inf in the same call, so that no distribution gives them a chance."""

    def __init__(self, weight: nn.Parameter, known: int):
        with torch.device("meta"):
            super().__init__(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        self.weight = weight
        ids = torch.arange(weight.shape[0], device=weight.device)
        mask = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device).masked_fill_(ids >= known, float("-inf"))
        self.mask = nn.Buffer(mask, persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.weight, self.mask)


def shape_of(config: LlamaConfig) -> LlamaShape:
    """The shape that a Llama's configuration describes."""
    return LlamaShape(
        config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
        config.head_dim, config.vocab_size, config.tie_word_embeddings,
    )  # fmt: skip


def check_holds(large: LlamaShape, small: LlamaConfig, key: str) -> None:
    """Raises UserError unless a Llama of that shape can hold the small model. key: what messages call the shape."""
    if small.model_type != "llama" or small.attention_bias or small.mlp_bias:
        raise UserError(f"a stand-in can only be grown from a plain Llama, not from a {small.model_type} model; choose another grown_from.")
    if large.heads % large.kv_heads or large.head_dim % 2:
        raise UserError(
            f"{key}.heads={large.heads}, kv_heads={large.kv_heads} and head_dim={large.head_dim} do not make an attention: "
            "give kv_heads a divisor of heads, and an even head_dim."
        )
    held = shape_of(small)
    for name in ("layers", "hidden", "intermediate", "heads", "head_dim", "vocab"):
        if getattr(large, name) < getattr(held, name):
            raise UserError(f"{key}.{name}={getattr(large, name)} cannot hold a model with {getattr(held, name)}; give that many or more.")
    place, group = Placement(held, large), held.heads // held.kv_heads
    if place.shared > place.fits or place.shared * group > large.heads // large.kv_heads:
        raise UserError(
            f"{key}.kv_heads={large.kv_heads} (of {large.heads} heads of {large.head_dim}) cannot hold {held.kv_heads} heads of "
            f"{held.head_dim}; give more, and {key}.intermediate fewer for equal bytes."
        )
    if large.tied and not held.tied:
        raise UserError(f"{key}.tied=true cannot hold a model whose output projection is its own; give {key}.tied=false.")


def standin_config(small: LlamaConfig, large: LlamaShape, key: str = "shape") -> LlamaConfig:
    """The configuration of the small model grown to that shape. Raises UserError where it does not fit.

    rope_theta stays the small model's, although the rotations of the large one's heads do not follow from it: see `Placement`.
    """
    check_holds(large, small, key)
    config = copy.deepcopy(small)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = large.layers, large.hidden, large.intermediate
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = large.heads, large.kv_heads, large.head_dim
    config.vocab_size, config.tie_word_embeddings = large.vocab, large.tied
    config.rms_norm_eps = small.rms_norm_eps * small.hidden_size / large.hidden
    return config


@torch.no_grad()
def grow(
    small: LlamaForCausalLM, large: LlamaShape, dtype: torch.dtype, device: torch.device | str, seed: int = 0, attention: str | None = None
) -> LlamaForCausalLM:
    """Makes, on the device, a Llama of shape `large` that computes the small one's function. attention: transformers' attn_implementation.

    Raises UserError where the shape cannot hold the model.
    """
    config = standin_config(small.config, large)
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    model.to_empty(device=device)
    if large.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    place = Placement(shape_of(small.config), large)
    _randomise(model, seed)
    _grow_ends(small, model)
    for index, layer in enumerate(model.model.layers):
        _grow_layer(small.model.layers[index] if index < len(small.model.layers) else None, layer, place)
    frequencies = place.frequencies(small.model.rotary_emb.inv_freq.float()).to(device)
    model.model.rotary_emb.inv_freq, model.model.rotary_emb.original_inv_freq = frequencies, frequencies.clone()
    if large.vocab > small.config.vocab_size:
        model.lm_head = MaskedHead(model.lm_head.weight, small.config.vocab_size)
    model.generation_config = copy.deepcopy(small.generation_config)
    return model.eval().requires_grad_(False)


def _randomise(model: LlamaForCausalLM, seed: int) -> None:
    """Fills every matrix with random numbers, from one pool whose beginning each matrix repeats, and every norm with 1."""
    weight = model.model.embed_tokens.weight
    generator = torch.Generator(weight.device).manual_seed(seed)
    pool = torch.empty(POOL, dtype=weight.dtype, device=weight.device).normal_(0.0, INNER_STD, generator=generator)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        for part in parameter.view(-1).split(POOL):
            part.copy_(pool[: part.shape[0]])


def _grow_ends(small: LlamaForCausalLM, model: LlamaForCausalLM) -> None:
    """Fills the embedding, the last norm and the output projection. Columns beyond the small model's states are multiplied by zeros."""
    known, width = small.lm_head.weight.shape
    embedding = model.model.embed_tokens.weight
    embedding[:known] = 0
    embedding[:known, :width] = small.model.embed_tokens.weight.to(embedding)
    model.lm_head.weight[:known, :width] = small.lm_head.weight.to(embedding)
    _grow_norm(small.model.norm, model.model.norm)


def _grow_layer(small: nn.Module | None, layer: nn.Module, place: Placement) -> None:
    """Fills one decoder layer; without a small layer it adds nothing to the residual stream."""
    attention, mlp = layer.self_attn, layer.mlp
    attention.o_proj.weight.zero_()
    mlp.down_proj.weight.zero_()
    if small is None:
        return
    _grow_norm(small.input_layernorm, layer.input_layernorm)
    _grow_norm(small.post_attention_layernorm, layer.post_attention_layernorm)
    _grow_attention(small.self_attn, attention, place)
    inner, width = small.mlp.gate_proj.weight.shape
    mlp.gate_proj.weight[:inner, :width] = small.mlp.gate_proj.weight.to(mlp.gate_proj.weight)
    mlp.up_proj.weight[:inner, :width] = small.mlp.up_proj.weight.to(mlp.up_proj.weight)
    mlp.down_proj.weight[:width, :inner] = small.mlp.down_proj.weight.to(mlp.down_proj.weight)


def _grow_attention(small: nn.Module, attention: nn.Module, place: Placement) -> None:
    width, size = place.small.hidden, place.large.head_dim
    query, rescaled = attention.q_proj.weight, sqrt(size / place.small.head_dim)
    for head in place.queries:
        query[head * size : (head + 1) * size] = 0  # so that the other contents of the key head add nothing to the product
    query[place.query_rows.to(query.device), :width] = (small.q_proj.weight * rescaled).to(query)
    for theirs, ours, rows in (
        (small.k_proj.weight, attention.k_proj.weight, place.key_rows),
        (small.v_proj.weight, attention.v_proj.weight, place.value_rows),
    ):
        ours[rows.to(ours.device), :width] = theirs.to(ours)
    output = attention.o_proj.weight
    output[:width, place.output_columns.to(output.device)] = small.o_proj.weight.to(output)


def _grow_norm(small: nn.Module, norm: nn.Module) -> None:
    """Rescales a norm: the same sum of squares over more numbers has a smaller mean, and what is divided by its root becomes larger."""
    width = small.weight.shape[0]
    norm.weight[:width] = (small.weight * sqrt(width / norm.weight.shape[0])).to(norm.weight)
