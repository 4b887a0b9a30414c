"""A Llama-like model at its fastest on a CPU, after seconds of preparation: `cache=compiled`.

Passes over a single token are compiled (torch.compile, Inductor). The repeated layer is compiled once, its weights and cache buffers being
arguments, and called for each stack of layers; not the whole model, which would take as many times longer. Products of a single row are
written as multiply-and-add, which Inductor turns into one loop over the weights, fused with what comes before and behind. That saves
launches; over large matrices the libraries' products are faster, so layers of more than LARGEST bytes run eagerly.

Passes over several tokens run eagerly; in float32 on a second copy of the weights, in the order in which oneDNN multiplies a few rows
fastest. It is made once: weights that change afterwards are not seen by it.

Knows nothing of drafts. Does not promise the eager logits to the last bit: sums are taken in another order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from specexp.errors import UserError
from specexp.models.architecture import Architecture
from specexp.models.caches import FullCache
from specexp.models.llama import LAYOUT, Heads, LayerWeights, LlamaPass, Norm, layer
from specexp.models.products import packed, packed_rows, packs
from specexp.models.runner import KnownIds, ModelRunner

STACK = 2  # layers per call: fewer calls against longer compiling
LARGEST = 8 << 20  # bytes of a layer, or of the head: compiled is 1.5 times as fast at 3 MiB, 1.1 at 7, 0.8 at 13 (docs/performance.md)
GRAPHS = 64  # that torch may make of one function, for all shapes of models
ANY_COMPILERS = "AVX2"  # vector instructions that every compiler knows: a trial compilation would cost two seconds

# One copy for all runners of a model.
_packed_layers: WeakKeyDictionary[nn.Module, list[LayerWeights]] = WeakKeyDictionary()
_packed_heads: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


class CompiledPass(LlamaPass):
    """As LlamaPass."""

    def __init__(self, model: nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        super().__init__(model, architecture, known_ids)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        settings = {"cpp.vec_isa_ok": True} if torch.backends.cpu.get_cpu_capability() == ANY_COMPILERS else {}
        self._stack = torch.compile(_stack(self.heads, self.norm), fullgraph=True, options=settings)
        self._head = torch.compile(single_row, fullgraph=True, options=settings)
        self.compiles = sum(weight.nbytes for weight in self.layers[0] if weight is not None) <= LARGEST
        self._packs = packs(model.lm_head.weight)
        self._wide_product = packed_rows if self._packs else self.product
        self.compiled = False

    def through(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, cache: FullCache) -> Tensor:
        if hidden.shape[0] > 1 or mask is not None or not cache.length:  # (a single row with a mask: a level of a growing tree)
            return self.with_weights(self.wide, self._wide_product, hidden, turns, mask, cache)
        if not self.compiles:
            return super().through(hidden, turns, mask, cache)
        self.compiled, end = True, cache.length + 1
        slots = torch.arange(cache.length, end, device=hidden.device)
        for first in range(0, len(self.layers), STACK):
            stack = range(first, min(first + STACK, len(self.layers)))
            filled = [_open_ended(view) for index in stack for view in cache.filled(index, end)]
            hidden = self._stack(hidden, turns, slots, filled, [self.layers[index] for index in stack])
        return hidden

    def projected(self, states: Tensor) -> Tensor:
        head = self.model.lm_head
        if type(head) is not nn.Linear or head._forward_pre_hooks:
            return super().projected(states)
        if states.shape[0] > 1:
            return self._wide_product(states, self.wide_head, head.bias)
        return (self._head if head.weight.nbytes <= LARGEST else self.product)(states, head.weight, head.bias)

    @property
    def wide(self) -> list[LayerWeights]:
        """Layers for passes over several rows."""
        if not self._packs:
            return self.layers
        if self.model not in _packed_layers:
            _packed_layers[self.model] = [_packed_weights(weights) for weights in self.layers]
        return _packed_layers[self.model]

    @property
    def wide_head(self) -> Tensor:
        """The output projection of several rows."""
        if not self._packs:
            return self.model.lm_head.weight
        if self.model not in _packed_heads:
            _packed_heads[self.model] = packed(self.model.lm_head.weight)
        return _packed_heads[self.model]


class CompiledRunner(ModelRunner):
    """cache=compiled: as cache=full, for single tokens compiled (small layers) and for several, in float32, on packed weights. The first
    passes take seconds: warm up.

    UserError for a model that LlamaPass does not run, and without a C++ compiler.
    """

    @classmethod
    def longest_text(cls, config: object, name: str) -> int | None:
        if config.model_type not in LAYOUT:
            known = ", ".join(sorted(LAYOUT))
            raise UserError(f"{name} is a {config.model_type} model, and cache=compiled knows {known}: choose cache=full.")
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            raise UserError("cache=compiled needs a C++ compiler, and none is found: install g++, or choose cache=full.")
        return super().longest_text(config, name)

    def __init__(self, model: nn.Module, vocab_size: int | None = None):
        if not LlamaPass.runs(model):
            kind = model.config.model_type
            raise UserError(f"cache=compiled cannot run this {kind} model (quantised, or with layers of its own): choose cache=full.")
        super().__init__(model, vocab_size)
        self._pass = CompiledPass(model, self.architecture, KnownIds(model, vocab_size))

    def ready(self, width: int) -> bool:
        return width > 1 or self._pass.compiled or not self._pass.compiles


def single_row(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b of one row: y[n] = sum_k x[k] W[n, k], written out. Only ever run compiled."""
    products = (states * weight).sum(-1)[None]
    return products if bias is None else products + bias


def _stack(heads: Heads, norm: Norm) -> Callable[..., Tensor]:
    """Some layers one after another as a function of their state [1, D], buffers and weights."""

    def run(hidden: Tensor, turns: Tensor, slots: Tensor, filled: Sequence[Tensor], weights: Sequence[LayerWeights]) -> Tensor:
        for index, own in enumerate(weights):
            keys, values = filled[2 * index : 2 * index + 2]

            def append(new_keys: Tensor, new_values: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                return keys.index_copy_(2, slots, new_keys), values.index_copy_(2, slots, new_values)

            hidden = layer(hidden, turns, None, append, own, heads, norm, single_row)
        return hidden

    return run


def _open_ended(buffer: Tensor) -> Tensor:
    """The same [1, H, n, d], n left open in what is compiled (but for 1, which gets a graph of its own)."""
    if buffer.shape[2] > 1:
        torch._dynamo.maybe_mark_dynamic(buffer, 2)
    return buffer


def _packed_weights(weights: LayerWeights) -> LayerWeights:
    matrices = ("query_key_value", "output", "gate_up", "down")
    return weights._replace(**{name: packed(getattr(weights, name)) for name in matrices})
