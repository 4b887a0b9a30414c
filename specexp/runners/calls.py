"""How a transformers model is called, and what its architecture allows.

- `Architecture` says whether a model accepts attention masks of ours, which token trees need. It is looked up once, when a runner is built,
  so what cannot work is refused there. A model type that is not listed here runs with transformers' own masks, which works for chains and
  not for trees.
- `DecoderOnlyPass` calls a decoder-only model, whose text begins with the prompt. It keeps nothing between calls; the cache is the
  caller's.
- `EncoderDecoderPass` calls a model of the T5 family. The encoder reads the prompt once, and the decoder's text begins with a start token.
  The encoder runs in the first pass after `start`, so a draft model that is never asked costs nothing. That pass also computes the keys and
  values of the cross-attention, which are kept. Positions are relative and counted from the cache's length, so there are no token trees.

These calls know nothing of drafts or of which ids the cache's slots belong to.

Attention masks for a pass whose rows follow filled slots. They are added to the attention scores: 0 lets a row see a slot, and the
smallest number of the type hides it.

In a chain of w rows after s filled slots, row i sees the slots 0 to s + i. Here with s = 3 and w = 3 (x: sees):

        slot    0 1 2 | 3 4 5
        row 0   x x x | x . .
        row 1   x x x | x x .
        row 2   x x x | x x x

All such masks are views of a few templates, so a round builds none. In a tree a row sees the context, its ancestors and itself. Here for a
tree with parents (-1, -1, 0), where the nodes 0 and 1 follow the context and node 2 follows node 0:

        slot    context | 0 1 2
        node 0  x x x x | x . .
        node 1  x x x x | . x .
        node 2  x x x x | x . x

Which nodes are ancestors is computed once per tree shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.draft import ROOT
from specexp.runners.caches import FullCache, SourceCache
from specexp.runners.lengths import slides

# Of these model types it is tested (tests/runners/test_architectures.py) that they use an additive [1, 1, rows, slots] mask and positions
# as given, and of those with sliding windows that they use a mask for each kind of layer.
_OWN_MASKS = frozenset({
    "apertus", "arcee", "biogpt", "codegen", "cohere", "deepseek_v2", "deepseek_v3", "diffllama", "doge", "gemma", "glm4", "gpt2",
    "gpt_bigcode", "gpt_neox", "gptj", "granite", "helium", "llama", "mistral", "mixtral", "mt5", "nemotron", "olmo2", "olmoe", "opt",
    "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
    "t5", "xglm",
})  # fmt: skip
_WINDOWED = frozenset({
    "cohere2", "exaone4", "gemma2", "gemma3_text", "gemma3n_text", "gpt_oss", "ministral", "mistral", "olmo3", "qwen2", "qwen3",
    "vaultgemma",
})  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """What a model's forward accepts. own_masks: one attention mask of ours for all layers. positions: `position_ids`. trims_logits:
    `logits_to_keep`.

    window: how many tokens the layers with a sliding window see, where masks of ours can say so; None where there are no such layers, or
    they cannot be told. by_kind: such masks are given by the layers' kinds, since other layers see the whole text.
    """

    model_type: str
    own_masks: bool
    positions: bool
    trims_logits: bool
    window: int | None = None
    by_kind: bool = False

    @property
    def trees(self) -> bool:
        return self.positions and (self.own_masks or self.window is not None)

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
            window=window(config) if plain else None,
            by_kind=bool(getattr(config, "layer_types", None)),
        )

    def within_window(self) -> Architecture:
        """Return what holds for texts that are no longer than the window: one mask of ours serves all layers."""
        return replace(self, own_masks=self.own_masks or self.window is not None, window=None)

    def tree_masks(self, mask: Tensor, positions: Tensor, columns: Tensor) -> Tensor | dict[str, Tensor]:
        """Return what a pass over a tree is given: `mask`, [1, 1, rows, slots], or the same with what is out of the window hidden, or both
        by the layers' kinds. positions: of the rows. columns: of the slots."""
        if self.window is None:
            return mask
        sliding = mask.masked_fill(positions[:, None] - columns >= self.window, torch.finfo(mask.dtype).min)
        return {"full_attention": mask, "sliding_attention": sliding} if self.by_kind else sliding


def own_masks(config: object) -> bool:
    """Whether a model of this configuration accepts our masks, provided that its attention is transformers' sdpa or eager one."""
    return config.model_type in _OWN_MASKS and not slides(config)


def window(config: object) -> int | None:
    """Return the sliding window of a model whose layers take masks for it from us; None for all other models."""
    kinds = set(getattr(config, "layer_types", None) or ())
    known = config.model_type in _WINDOWED and kinds <= {"full_attention", "sliding_attention"}
    return config.sliding_window if known and slides(config) else None


class DecoderOnlyPass:
    """Calls a causal language model. known_ids: brings ids into the range of its embeddings."""

    source_bytes = 0

    def __init__(self, model: torch.nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        self.model, self.architecture, self.known_ids = model, architecture, known_ids

    def start(self, prompt: Sequence[int]) -> list[int]:
        """Return the ids that the context begins with."""
        return list(prompt)

    def reserve(self, length: int) -> None:
        """Make the tables that passes over texts of up to `length` tokens need, so that none is made while decoding. There are none
        here."""

    def full(self, tokens: Tensor, rows: int) -> Tensor:
        """Feed the whole text, [n] tokens, without a cache. Returns the logits of its last rows, [rows, V]."""
        return self.model(input_ids=self.known_ids(tokens)[None], use_cache=False).logits[0, -rows:]

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: object, rows: int) -> Tensor:
        """Feed [n] tokens at these positions, which follow what the cache holds. Their keys and values are written into the cache. Returns
        the logits of the last rows, [rows, V]."""
        inputs = {"position_ids": positions[None]} if self.architecture.positions else {}
        if self.architecture.trims_logits:
            inputs["logits_to_keep"] = rows
        output = self.model(input_ids=self.known_ids(tokens)[None], attention_mask=mask, past_key_values=cache, use_cache=True, **inputs)
        return output.logits[0] if self.architecture.trims_logits else output.logits[0, -rows:]


class EncoderDecoderPass:
    """Calls a T5 or a model built like it. known_ids: brings ids into the range of its embeddings."""

    def __init__(self, model: torch.nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        self.model, self.architecture, self.known_ids = model, architecture, known_ids
        self._source: Tensor | None = None  # [1, source tokens]
        self._encoded: Tensor | None = None  # [1, source tokens, d_model]
        self._cache: SourceCache | None = None

    @property
    def source_bytes(self) -> int:
        """The bytes of the cross-attention's keys and values, which is 0 before the first pass."""
        return 0 if self._cache is None else self._cache.source_bytes

    def start(self, prompt: Sequence[int]) -> list[int]:
        """Store the source, and return the ids that the context begins with."""
        self._source = self.known_ids(torch.tensor([list(prompt)], device=self.model.device))
        self._encoded = self._cache = None
        return [decoder_start(self.model)]

    def full(self, tokens: Tensor, rows: int) -> Tensor:
        """Feed the decoder's whole text, [n] tokens, without a cache; the source is read again. Returns the logits of its last rows, [rows,
        V]."""
        output = self.model(input_ids=self._source, decoder_input_ids=self.known_ids(tokens)[None], use_cache=False)
        return output.logits[0, -rows:]

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: FullCache, rows: int) -> Tensor:
        """Feed [n] tokens that follow what the cache holds. Returns the logits of the last rows, [rows, V]. The model counts the positions
        itself."""
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
    """Return the id that every decoder's text begins with and that is not part of the answer (for T5 the padding token)."""
    for settings in (model.generation_config, model.config):
        if (token := getattr(settings, "decoder_start_token_id", None)) is not None:
            return token
    return model.config.pad_token_id


_ALIGNED = 8  # attention kernels read masks in pieces of 16 bytes, so rows and views begin at multiples of 8 elements


class ChainMasks:
    """Gives masks for chains, [1, 1, w, s + w], as views of templates. There is one template for each s modulo 8, so that every view is
    aligned, and templates grow by doubling.

    A template hides everything to the right of a diagonal. A view that begins further left has more filled slots before the diagonal, so
    one template serves all numbers of filled slots that are equal modulo 8.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self._reach, self._widest = 0, 0  # the most filled slots and the most rows that the templates serve
        self._templates: dict[int, Tensor] = {}

    def __call__(self, filled: int, width: int) -> Tensor:
        if filled > self._reach or width > self._widest:
            self._reach = aligned(max(filled, 2 * self._reach, 256))
            self._widest = aligned(max(width, self._widest))
            self._templates.clear()
        phase = filled % _ALIGNED
        if phase not in self._templates:
            self._templates[phase] = self._build(self._reach + phase)
        start = self._reach + phase - filled  # template[i, j] is 0 iff j <= reach + phase + i, and column j of the view is j + start
        return self._templates[phase].narrow(2, 0, width).narrow(3, start, filled + width)

    def _build(self, reach: int) -> Tensor:
        shape = (1, 1, self._widest, aligned(reach + self._widest))
        return torch.full(shape, torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device).triu(reach + 1)


def tree_mask(filled: int, lead: int, parents: tuple[int, ...], fed_nodes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask of a pass over `lead` context tokens and then the last `fed_nodes` nodes of a tree of N nodes: [1, 1, lead +
    fed_nodes, filled + lead + fed_nodes].

    The first `filled` slots are filled already; the last N - fed_nodes of them hold the tree's first nodes. The slots of this pass's rows
    follow. A node sees the context, its ancestors and itself, and never a sibling.
    """
    nodes = len(parents)
    context = filled - (nodes - fed_nodes) + lead
    rows = torch.full((lead + fed_nodes, aligned(context + nodes)), torch.finfo(dtype).min, dtype=dtype, device=device)
    mask = rows.narrow(1, 0, context + nodes)
    mask[:lead] = mask[:lead].triu(context - lead + 1)
    mask[lead:, :context] = 0
    ancestors = _ancestors(parents).to(device)[nodes - fed_nodes :]
    mask[lead:, context:].masked_fill_(ancestors, 0)
    return mask[None, None]


def aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


@lru_cache(maxsize=256)
def _ancestors(parents: tuple[int, ...]) -> Tensor:
    """Return [N, N] bool, whose entry (i, j) is true if node j is node i or one of its ancestors."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            sees[node] |= sees[parent]
    return sees
