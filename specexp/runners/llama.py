"""The pass of a Llama with as few operations as plain torch allows. In a small or a fast model, launching the operations takes longer than
the arithmetic, so their number decides the time of a pass.

This computes the same function as transformers' LlamaForCausalLM over the same weights; Mistral without a window and Qwen2 are built in the
same way. There is one product for queries, keys and values, one for gate and up, and one rotation for all heads, and residuals are added by
the products that make them. The fused matrices are stored in the place of their parts, which remain valid as views, so nothing is held
twice and other code may use the same model.

Sums are taken in another order than in transformers, so logits agree to float32 rounding (tested) and not to the last bit. In 16-bit types
the norms round as those of transformers do (computed in float32 and rounded before the weight), because there the rounding is part of the
model.

The products x W^T of a decoding step have few rows. On a CPU, a product of 2 to 8 rows with a matrix that is read once is limited by
memory, and BLAS libraries, which are tuned for large products, choose worse forms for it. Measured on two cores with AVX2 and MKL, with
matrices of 0.8 to 1.5 MB: W x^T takes half the time of x W^T for 5 rows, and 1.2 times as long for 13; and a single row is multiplied by
only one thread, unless the matrix is cut into a batch. `few_rows` chooses the form. With matrices of 4 to 23 MB oneDNN is twice as fast
from 5 rows on, but needs the matrix in another order, which is a second copy (`packed`).

This module knows nothing of drafts, nor of which ids the cache's slots belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from specexp.runners.caches import FullCache
from specexp.runners.calls import Architecture, DecoderOnlyPass
from specexp.runners.lengths import slides

LAYOUT = frozenset({"llama", "mistral", "qwen2"})
SHARED = ("transformers.activations", "torch.nn.")  # the packages of modules that many architectures use
FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn"})  # angles that depend on the position alone

Append = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # new keys and values -> all there are, [1, H, n, d] each
Norm = Callable[[Tensor, Tensor], Tensor]  # states, weight
Product = Callable[..., Tensor]  # x, W, b or no b -> x W^T + b


class LayerWeights(NamedTuple):
    """The weights of one decoder layer. bias: of queries, keys and values together, or None."""

    attention_norm: Tensor
    query_key_value: Tensor  # [(Hq + 2 Hk) d, D]
    bias: Tensor | None
    output: Tensor  # [D, Hq d]
    mlp_norm: Tensor
    gate_up: Tensor  # [2 I, D]
    down: Tensor  # [D, I]


class Heads(NamedTuple):
    """The number of query heads, the number of key heads, and the size d of a head."""

    query: int
    key: int
    size: int


class LlamaPass(DecoderOnlyPass):
    """Calls a model that `runs` accepts. known_ids: brings ids into the range of its embeddings."""

    @classmethod
    def runs(cls, model: nn.Module) -> bool:
        """Whether texts of any length can be run: this model's layers are what `layer` computes, and none has a sliding window."""
        return not slides(model.config) and cls.runs_within_window(model)

    @classmethod
    def runs_within_window(cls, model: nn.Module) -> bool:
        """Whether this model's layers are what `layer` computes as long as the text is no longer than a sliding window that some may have.
        There may be neither quantisation nor hooks, and the model has to be on one device."""
        if model.config.model_type not in LAYOUT or model.config._attn_implementation != "sdpa" or not _plain(model.config):
            return False
        modules = [*model.model.modules()]
        ours = all(type(module).__module__.startswith((f"transformers.models.{model.config.model_type}.", *SHARED)) for module in modules)
        linear_alone = all(type(module) is nn.Linear for module in modules if hasattr(module, "in_features"))
        unbiased = all(layer.self_attn.o_proj.bias is None for layer in model.model.layers)
        hooked = any(hasattr(module, "_hf_hook") or module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        places = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
        return ours and linear_alone and unbiased and not hooked and len(places) == 1

    def __init__(self, model: nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        super().__init__(model, architecture, known_ids)
        config, body = model.config, model.model
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, size)
        self.layers = [_weights(layer) for layer in body.layers]
        self.norm = partial(_norm if model.dtype == torch.float32 else _rounded_norm, eps=config.rms_norm_eps)
        self.product = few_rows if model.device.type == "cpu" else linear
        self._turns = torch.empty(0, device=model.device)

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: FullCache, rows: int) -> Tensor:
        width = tokens.shape[0]
        hidden = self.model.model.embed_tokens(self.known_ids(tokens))
        hidden = self.through(hidden, self.turns(positions, cache.length + width), mask, cache)
        states = self.norm(hidden[-rows:] if rows < width else hidden, self.model.model.norm.weight)
        return self.projected(states)

    def projected(self, states: Tensor) -> Tensor:
        """Project states to logits, [rows, D] -> [rows, V]. The output projection itself is called if it is not a plain linear layer or
        has a hook."""
        head = self.model.lm_head
        if type(head) is not nn.Linear or head._forward_pre_hooks:
            return head(states[None])[0]
        return self.product(states, head.weight, head.bias)

    def through(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, cache: FullCache) -> Tensor:
        """Run states, [w, D], through all layers."""
        return self.with_weights(self.layers, self.product, hidden, turns, mask, cache)

    def with_weights(
        self, layers: Sequence[LayerWeights], product: Product, hidden: Tensor, turns: Tensor, mask: Tensor | None, cache: FullCache
    ) -> Tensor:
        """Run states through these layers, whose matrices are in the form that `product` takes."""
        for index, weights in enumerate(layers):
            hidden = layer(hidden, turns, mask, partial(cache.update, layer_idx=index), weights, self.heads, self.norm, product)
        return hidden

    def turns(self, positions: Tensor, end: int) -> Tensor:
        """Return the rotation of each position, which is below `end`: [w, 2, 1, d], cos and then sin. The first half of sin has the minus
        sign that `rotate` needs."""
        self.reserve(end)
        return self._turns.index_select(0, positions)

    def reserve(self, length: int) -> None:
        if length <= self._turns.shape[0]:
            return
        reach = torch.arange(max(1024, 2 * length), device=self.model.device)[None]
        cos, sin = self.model.model.rotary_emb(self.model.model.norm.weight, reach)
        half = self.heads.size // 2
        self._turns = torch.stack([cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)], 1)[:, :, None]


def layer(
    hidden: Tensor, turns: Tensor, mask: Tensor | None, append: Append, weights: LayerWeights, heads: Heads, norm: Norm, product: Product
) -> Tensor:
    """Run one decoder layer, [w, D] -> [w, D]. mask: as scaled_dot_product_attention takes it. Several rows without a mask have to be the
    beginning of a text."""
    turning = heads.query + heads.key
    fused = product(norm(hidden, weights.attention_norm), weights.query_key_value, weights.bias).view(-1, turning + heads.key, heads.size)
    turned = rotate(fused[:, :turning], turns).transpose(0, 1)[None]
    keys, values = append(turned[:, heads.query :], fused[:, turning:].transpose(0, 1)[None])
    seen = attended(turned[:, : heads.query], keys, values, mask)
    hidden = added(hidden, seen[0].transpose(0, 1).reshape(-1, heads.query * heads.size), weights.output, product)
    gate, up = product(norm(hidden, weights.mlp_norm), weights.gate_up).chunk(2, -1)
    return added(hidden, silu(gate) * up, weights.down, product)


def attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention of queries [1, Hq, w, d] over keys and values [1, Hk, n, d]: [1, Hq, w, d].

    Query heads that share keys become rows of one head, which reads the keys once. On CUDA no fast kernel takes both a mask and groups of
    heads, and torch would use its slowest.
    """
    groups, width = queries.shape[1] // keys.shape[1], queries.shape[2]
    if mask is None and width > 1:
        # bool(), because torch.compile does not give one otherwise
        return scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=bool(groups > 1))
    if groups == 1:
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    rows = queries.reshape(1, keys.shape[1], groups * width, -1)
    seen = scaled_dot_product_attention(rows, keys, values, attn_mask=None if mask is None else mask.repeat(1, 1, groups, 1))
    return seen.reshape(queries.shape)


def rotate(states: Tensor, turns: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021, arXiv:2104.09864) to states [w, H, d]; turns: [w, 2, 1, d]. Dimension i is paired with
    dimension i + d/2: (a, b) becomes (a cos - b sin, b cos + a sin)."""
    swapped = states.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(states * turns[:, 0], swapped, turns[:, 1])


def added(hidden: Tensor, states: Tensor, weight: Tensor, product: Product) -> Tensor:
    """Return hidden + states W^T."""
    return torch.addmm(hidden, states, weight.t()) if product is linear else hidden + product(states, weight)


def _norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm in six operations; torch's own rms_norm is composed of more."""
    scale = hidden.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (hidden * scale).mul_(weight)


def _rounded_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm that is computed in float32 and rounded before the weight, as the norms of transformers are."""
    wide = hidden.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(hidden.dtype)


def _plain(config: object) -> bool:
    """Whether this configuration asks for nothing that `layer` does not do."""
    rope = getattr(config, "rope_parameters", None) or {}
    turns = rope.get("rope_type", "default") in FIXED_ROPE and rope.get("partial_rotary_factor", 1) in (1, None)
    return turns and config.hidden_act == "silu" and not getattr(config, "mlp_bias", False)


def _weights(module: nn.Module) -> LayerWeights:
    attention, mlp = module.self_attn, module.mlp
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    bias = None if attention.q_proj.bias is None else _fuse([part.bias for part in parts])
    return LayerWeights(
        module.input_layernorm.weight.data, _fuse([part.weight for part in parts]), bias, attention.o_proj.weight.data,
        module.post_attention_layernorm.weight.data, _fuse([mlp.gate_proj.weight, mlp.up_proj.weight]), mlp.down_proj.weight.data,
    )  # fmt: skip


def _fuse(parts: list[nn.Parameter]) -> Tensor:
    """Return the parts stacked into one matrix, whose memory they then share. If they are stacked already, by another runner of this model,
    nothing is copied."""
    first, sizes = parts[0].data, [part.shape[0] for part in parts]
    if _adjoin([part.data for part in parts]):
        return first.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    whole = torch.cat([part.data for part in parts])
    for part, view in zip(parts, whole.split(sizes), strict=True):
        part.data = view
    return whole


def _adjoin(parts: list[Tensor]) -> bool:
    """Whether each part begins where the one before ends, in one piece of memory."""
    if len({part.untyped_storage().data_ptr() for part in parts}) > 1 or not all(part.is_contiguous() for part in parts):
        return False
    return all(after.data_ptr() == before.data_ptr() + before.nbytes for before, after in pairwise(parts))


FEW = 8  # up to this many rows the product is computed as W x^T


def few_rows(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b in the form that is fastest for few rows: [m, K] by [N, K] (and [N]) -> [m, N], contiguous."""
    rows = states.shape[0]
    if rows > FEW:
        return linear(states, weight, bias)
    product = _one_row(states, weight) if rows == 1 else torch.mm(weight, states.t()).t().contiguous()
    return product if bias is None else product.add_(bias)


def _one_row(states: Tensor, weight: Tensor) -> Tensor:
    """Multiply a single row. The matrix is cut into as many shares as there are threads, so that each thread multiplies one."""
    threads = torch.get_num_threads()
    if threads == 1 or weight.shape[0] % threads:
        return linear(states, weight)
    shares = weight.view(threads, -1, weight.shape[1])
    return torch.bmm(states.expand(threads, -1, -1), shares.transpose(1, 2)).view(1, -1)


def packs(weight: Tensor) -> bool:
    """Whether matrices of this type can be reordered for oneDNN on this machine."""
    return weight.is_cpu and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def packed(weight: Tensor) -> Tensor:
    """Return a reordered copy of an [N, K] matrix, which only `packed_rows` can read."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW)


def packed_rows(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b for a packed matrix: [m, K] by a packed [N, K] (and [N]) -> [m, N]."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
