"""A Llama-like model whose decoder layers are compiled (torch.compile, Inductor): `cache=compiled`.

The repeated layer is compiled once, its weights and cache buffers being arguments, and called for each stack of layers; not the whole
model, which would take as many times longer. Products of a single row are written as multiply-and-add, which Inductor turns into one loop
over the weights, fused with what comes before and behind. Widths and attended lengths are dynamic: three graphs per shape of layer, for a
single row, a few and many.

Prefills, and passes wider than WIDEST, run eagerly. Knows nothing of drafts. Does not promise the eager logits to the last bit: sums are
taken in another order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from specexp.errors import UserError
from specexp.models.architecture import Architecture
from specexp.models.caches import FullCache
from specexp.models.llama import LAYOUT, Heads, LayerWeights, LlamaPass, Norm, layer
from specexp.models.products import few_rows
from specexp.models.runner import KnownIds, ModelRunner

STACK = 2  # layers per call: fewer calls against longer compiling
WIDEST = 64  # rows of a compiled pass
GRAPHS = 64  # that torch may make of one function, for all shapes of models
ANY_COMPILERS = "AVX2"  # vector instructions that every compiler knows: a trial compilation would cost two seconds


class CompiledPass(LlamaPass):
    """As LlamaPass."""

    def __init__(self, model: nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        super().__init__(model, architecture, known_ids)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        settings = {"cpp.vec_isa_ok": True} if torch.backends.cpu.get_cpu_capability() == ANY_COMPILERS else {}
        self._stack = torch.compile(_stack(self.heads, self.norm), fullgraph=True, options=settings)
        self._head = torch.compile(written_out, fullgraph=True, options=settings)
        self.widths: set[int] = set()  # of the passes so far

    def through(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, cache: FullCache) -> Tensor:
        width = hidden.shape[0]
        if not cache.length or width > WIDEST:
            return super().through(hidden, turns, mask, cache)
        self.widths.add(width)
        end = cache.length + width
        slots = torch.arange(cache.length, end, device=hidden.device)
        mask = None if mask is None else _dynamic(mask, 2, 3)
        for first in range(0, len(self.layers), STACK):
            stack = range(first, min(first + STACK, len(self.layers)))
            filled = [_dynamic(view, 2) for index in stack for view in cache.filled(index, end)]
            weights = [self.layers[index] for index in stack]
            hidden = self._stack(_dynamic(hidden, 0), _dynamic(turns, 0), mask, _dynamic(slots, 0), filled, weights)
        return hidden

    def projected(self, states: Tensor) -> Tensor:
        head = self.model.lm_head
        if type(head) is not nn.Linear or head._forward_pre_hooks or states.shape[0] > WIDEST:
            return super().projected(states)
        return self._head(_dynamic(states, 0), head.weight, head.bias)


class CompiledRunner(ModelRunner):
    """cache=compiled: as cache=full, its passes over a few rows compiled. The first ones take seconds: warm up.

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
        return width > WIDEST or width in self._pass.widths


def written_out(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b; of one row y[n] = sum_k x[k] W[n, k], written out. Only ever run compiled."""
    if states.shape[0] > 1:
        return few_rows(states, weight, bias)
    products = (states * weight).sum(-1)[None]
    return products if bias is None else products + bias


def _stack(heads: Heads, norm: Norm) -> Callable[..., Tensor]:
    """Some layers one after another as a function of their states, buffers and weights."""

    def run(
        hidden: Tensor, turns: Tensor, mask: Tensor | None, slots: Tensor, filled: Sequence[Tensor], weights: Sequence[LayerWeights]
    ) -> Tensor:
        for index, own in enumerate(weights):
            keys, values = filled[2 * index : 2 * index + 2]

            def append(new_keys: Tensor, new_values: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                return keys.index_copy_(2, slots, new_keys), values.index_copy_(2, slots, new_values)

            hidden = layer(hidden, turns, mask, append, own, heads, norm, written_out)
        return hidden

    return run


def _dynamic(tensor: Tensor, *dims: int) -> Tensor:
    """The same tensor, its sizes along `dims` left open in what is compiled (but for 1, which gets a graph of its own)."""
    for dim in dims:
        if tensor.shape[dim] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor
