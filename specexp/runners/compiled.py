"""A Llama-like model at its fastest on a CPU, after some seconds of preparation: `cache=compiled`.

- Passes over up to PART = 8 tokens are compiled (torch.compile, Inductor). There are two compiled forms: one for a single token, and one
  for 8 tokens, which also serves 2 to 7 by filling them up with copies of the last. The code that is compiled is a stack of STACK = 2
  layers, with weights and cache buffers as its arguments, and it is called for each stack in turn; compiling the whole model at once would
  take as many times longer as there are stacks. Products are written as multiply-and-add, which Inductor turns into one loop over the
  weights for all rows, together with what comes before and after. That saves launches.
- In large matrices there is less to save, so layers of more than LARGEST weights run eagerly, and so do passes over more than 8 tokens. In
  float32, whatever runs eagerly over several rows reads a second copy of the weights, in the order in which oneDNN multiplies a few rows
  fastest. The copy is made once, so it does not follow weights that change afterwards.

The logits differ from the eager ones in the last bits, because sums are taken in another order. This module knows nothing of drafts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from specexp.errors import UserError
from specexp.runners.caches import FullCache
from specexp.runners.calls import Architecture
from specexp.runners.lengths import within_window
from specexp.runners.llama import LAYOUT, Heads, LayerWeights, LlamaPass, Norm, layer, packed, packed_rows, packs
from specexp.runners.runner import KnownIds, ModelRunner

STACK = 2  # layers per call: more of them would mean fewer calls and longer compiling
PART = 8  # rows of the compiled pass over several: 2 rows take as long as 8, and each further width would take seconds to compile
LARGEST = 8 << 20  # weights of a layer, or of the head; above it 5 rows take as long on packed float32 weights (docs/performance.md)
GRAPHS = 64  # how many forms torch may compile of one function, for all shapes of models together
ANY_COMPILERS = "AVX2"  # every compiler knows these vector instructions, so the trial compilation of two seconds can be left out

Buffers = Sequence[Tensor]  # a layer's filled keys and values, then those of the next layer

# All runners of a model share one packed copy.
_packed_layers: WeakKeyDictionary[nn.Module, list[LayerWeights]] = WeakKeyDictionary()
_packed_heads: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


class PartCache(FullCache):
    """A full cache with PART further slots for the rows that fill up a pass. It never returns a view of a whole buffer, for which torch
    would compile once more."""

    def reserve(self, capacity: int) -> None:
        super().reserve(capacity + PART)

    def filled(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        keys, values = super().filled(layer, end + 1)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)


class CompiledPass(LlamaPass):
    """Calls the model as LlamaPass does, with compiled stacks of layers where that is faster."""

    def __init__(self, model: nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        super().__init__(model, architecture, known_ids)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        settings = {"size_asserts": False, "cpp.vec_isa_ok": torch.backends.cpu.get_cpu_capability() == ANY_COMPILERS or None}
        self._stack = torch.compile(_stack(self.heads, self.norm), fullgraph=True, dynamic=False, options=settings)
        self._head = torch.compile(row_by_row, fullgraph=True, dynamic=False, options=settings)
        firsts = range(0, len(self.layers), STACK)
        self._stacks = [(range(len(self.layers))[first : first + STACK], self.layers[first : first + STACK]) for first in firsts]
        self.compiles = sum(weight.numel() for weight in self.layers[0] if weight is not None) <= LARGEST
        self._packs = packs(model.lm_head.weight)
        self._wide_product = packed_rows if self._packs else self.product
        self.compiled = False

    def through(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, cache: FullCache) -> Tensor:
        if not self.compiles or not cache.length:
            return self._eagerly(hidden, turns, mask, cache)
        if not self.compiled:
            self._compile(hidden[:1], turns[:1], cache)
        if mask is None and hidden.shape[0] == 1:
            return self._alone(hidden, turns, cache)
        if mask is None or hidden.shape[0] > PART:
            return self._eagerly(hidden, turns, mask, cache)
        return self._several(hidden, turns, mask, cache)  # also a single row with a mask, as a growing tree's level may be

    def _compile(self, row: Tensor, turns: Tensor, cache: FullCache) -> None:
        """Compile everything at once. Otherwise some form would be compiled only when it is first needed, such as for the first draft that
        is accepted whole, which may be long after the warm-up. The next pass writes over what this writes into the cache."""
        self._alone(row, turns, cache)
        self._several(row, turns, row.new_zeros(1, 1, 1, cache.length + 1), cache)
        if not self.model.lm_head._forward_pre_hooks:  # a hook would take this row's states for the text's
            self.projected(row)
        self.compiled = True

    def _eagerly(self, hidden: Tensor, turns: Tensor, mask: Tensor | None, cache: FullCache) -> Tensor:
        if hidden.shape[0] == 1:
            return super().through(hidden, turns, mask, cache)
        return self.with_weights(self.wide, self._wide_product, hidden, turns, mask, cache)

    def _alone(self, hidden: Tensor, turns: Tensor, cache: FullCache) -> Tensor:
        """Run a single row, which sees everything before it."""
        end = cache.length + 1
        slots = torch.arange(cache.length, end, device=hidden.device)
        for stack, weights in self._stacks:
            hidden = self._stack(hidden, turns, None, slots, _filled(cache, stack, end), weights)
        return hidden

    def _several(self, hidden: Tensor, turns: Tensor, mask: Tensor, cache: FullCache) -> Tensor:
        """Run up to PART rows under a mask. Copies of the last row fill them up; their keys go into the slots after the others' and are
        written over by the next pass."""
        width, end = hidden.shape[0], cache.length + PART
        rows, slots = torch.arange(PART, device=hidden.device).clamp_(max=width - 1), torch.arange(cache.length, end, device=hidden.device)
        hidden, turns = hidden[rows], turns[rows]
        seen = _open_ended(pad(mask[:, :, rows], (0, PART - width), value=torch.finfo(mask.dtype).min), 3)
        for stack, weights in self._stacks:
            hidden = self._stack(hidden, turns, seen, slots, _filled(cache, stack, end), weights)
        return hidden[:width]

    def projected(self, states: Tensor) -> Tensor:
        head = self.model.lm_head
        if type(head) is not nn.Linear or head._forward_pre_hooks:
            return super().projected(states)
        if states.shape[0] > 1:
            return self._wide_product(states, self.wide_head, head.bias)
        return (self._head if head.weight.numel() <= LARGEST else self.product)(states, head.weight, head.bias)

    @property
    def wide(self) -> list[LayerWeights]:
        """The layers' weights for passes over several rows: packed copies where the machine has those."""
        if not self._packs:
            return self.layers
        if self.model not in _packed_layers:
            _packed_layers[self.model] = [_packed_weights(weights) for weights in self.layers]
        return _packed_layers[self.model]

    @property
    def wide_head(self) -> Tensor:
        """The weight of the output projection for several rows, in the same way."""
        if not self._packs:
            return self.model.lm_head.weight
        if self.model not in _packed_heads:
            _packed_heads[self.model] = packed(self.model.lm_head.weight)
        return _packed_heads[self.model]


class CompiledRunner(ModelRunner):
    """The runner of cache=compiled. It is as that of cache=full, but its passes are compiled (up to PART tokens, small layers) or use
    packed weights (several tokens in float32). The first pass after a prompt takes seconds to compile, so a measurement needs a warm-up.

    Raises UserError for a model that LlamaPass does not run, for one that is not on a CPU, and if there is no C++ compiler.
    """

    kind = "compiled"

    @classmethod
    def longest_text(cls, config: object, name: str) -> int | None:
        if config.model_type not in LAYOUT:
            known = ", ".join(sorted(LAYOUT))
            raise UserError(f"{name} is a {config.model_type} model, and cache=compiled knows {known}: choose cache=full.")
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            raise UserError("cache=compiled needs a C++ compiler, and none is found: install g++, or choose cache=full.")
        return within_window(super().longest_text(config, name), config)

    def __init__(self, model: nn.Module, vocab_size: int | None = None):
        if not LlamaPass.runs_within_window(model):
            kind = model.config.model_type
            raise UserError(f"cache=compiled cannot run this {kind} model (quantised, or with layers of its own): choose cache=full.")
        if model.device.type != "cpu":
            raise UserError(f"cache=compiled is made for CPUs, and this model is on {model.device}: choose cache=static or cache=full.")
        super().__init__(model, vocab_size, PartCache())
        self.architecture = self.architecture.within_window()
        self._pass = CompiledPass(model, self.architecture, KnownIds(model, vocab_size))

    def ready(self, width: int) -> bool:
        return width > PART or self._pass.compiled or not self._pass.compiles


def row_by_row(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, that is y[m, n] = sum_k x[m, k] W[n, k], written out for each row. It is only run compiled, as one loop over W."""
    states = states.as_strided(states.shape, states.stride())  # makes Inductor compute x once, and not again for each n
    products = torch.stack([(row * weight).sum(-1) for row in states.unbind()])
    return products if bias is None else products + bias


def _stack(heads: Heads, norm: Norm) -> Callable[..., Tensor]:
    """Return the function that runs some layers one after another on states [w, D], with the layers' buffers and weights as arguments. w is
    1 without a mask and PART with one."""

    def run(hidden: Tensor, turns: Tensor, mask: Tensor | None, slots: Tensor, filled: Buffers, weights: Sequence[LayerWeights]) -> Tensor:
        for index, own in enumerate(weights):
            keys, values = filled[2 * index : 2 * index + 2]

            def append(new_keys: Tensor, new_values: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                return keys.index_copy_(2, slots, new_keys), values.index_copy_(2, slots, new_values)

            hidden = layer(hidden, turns, mask, append, own, heads, norm, row_by_row)
        return hidden

    return run


def _filled(cache: FullCache, stack: Sequence[int], end: int) -> Buffers:
    return [_open_ended(view, 2) for index in stack for view in cache.filled(index, end)]


def _open_ended(tensor: Tensor, dimension: int) -> Tensor:
    """Return the same tensor, marked so that the compiled code works for any length of 2 or more in this dimension."""
    torch._dynamo.maybe_mark_dynamic(tensor, dimension)
    return tensor


def _packed_weights(weights: LayerWeights) -> LayerWeights:
    matrices = ("query_key_value", "output", "gate_up", "down")
    return weights._replace(**{name: packed(getattr(weights, name)) for name in matrices})
