"""A runner whose passes have fixed shapes, so that they can be captured: `cache=static`. On CUDA each is one graph; elsewhere the same
logic runs uncaptured.

A pass over w rows is padded to a bucket of width, and attends a bucket of the cache; rows that only fill the shape write behind the text,
where the next pass writes over them. A greedy draft is one program from its first token to its last, whose first step has always two
rows (the one more is what an all-accepted round leaves to be read). Under sampling, and where a policy decides token by token, each step
is a program of its own. Prefills have any shape and run eagerly.

Programs are made when they are first asked for, and thrown away when a longer text needs larger buffers: warm up with the longest. A
draft shorter than any that was made, as the last ones of a text are, is cut from a longer one's program, or made step by step where that
would run more than twice its passes and such steps have been made.

Keys and values at addresses that never change, for passes of fixed shape that are captured and launched again.

Where a pass writes is a tensor (`slots`), how far it sees a number (`reach`): both are set by whoever runs it. Knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Proceeds
from specexp.decoding.sampling import Draws
from specexp.errors import UserError
from specexp.runners.caches import FullCache
from specexp.runners.calls import Architecture, looked_up_positions, own_masks
from specexp.runners.capture import Program, capture_for
from specexp.runners.runner import ModelRunner, fit_vocabulary

WIDTHS = (*range(1, 9), 12, 16, 24, 32, 48, 64)  # rows of a program; wider passes run eagerly


@dataclass(frozen=True)
class Launch:
    """A program and the tensors it reads. size: its rows, or drafted tokens. mask: of a tree; a chain's is made from `first`, the slot of
    the first row."""

    program: Program
    size: int
    tokens: Tensor
    first: Tensor
    positions: Tensor
    mask: Tensor | None = None


class StaticRunner(ModelRunner):
    """block: attended lengths are multiples of it. capture: auto, graphs or none.

    UserError for models whose passes cannot be captured.
    """

    kind = "static"

    @classmethod
    def longest_text(cls, config: object, name: str, block: int = 256, capture: str = "auto") -> int | None:
        if block < 1:
            raise UserError(f"cache.block={block} does not fit; give 1 or more.")
        turns = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
        if config.is_encoder_decoder or not own_masks(config) or turns in ("dynamic", "longrope"):  # looked up on the host in every pass
            raise UserError(f"{name} is a {config.model_type} model, which a static cache would make wrong; choose cache=full.")
        return super().longest_text(config, name)

    @staticmethod
    def fits(model: torch.nn.Module) -> bool:
        """Attention that takes a mask of ours, and nothing that asks the host in between: no copies from device to device, no products
        that look for outliers first."""
        masked = not model.config.is_encoder_decoder and Architecture.of(model).trees
        moved = len({parameter.device for parameter in model.parameters()}) > 1 or any(hasattr(m, "_hf_hook") for m in model.modules())
        return masked and not moved and getattr(model.config, "quantization_config", None) is None

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None, block: int = 256, capture: str = "auto"):
        super().__init__(model, vocab_size, StaticCache(block, spare=max(WIDTHS)))
        if not self.fits(model):
            raise UserError(f"{self.describe()} cannot run with a static cache; choose cache=full.")
        self.block = block
        self.capture = capture_for(capture, model.device)
        self._positions_end = looked_up_positions(model.config)
        self._launches: dict[tuple[str, int], dict[int, Launch]] = {}  # by kind and size, then by attended length
        self._made_for = self.cache.addresses

    @property
    def kv_bytes(self) -> int:
        return self.cache.capacity * self.cache.bytes_per_slot

    def ready(self, width: int) -> bool:
        return ("chain", width) in self._launches

    def ready_to_draft(self, length: int, draws: Draws) -> bool:
        if self._whole(length, draws):
            return any(kind == "rollout" and length <= size for kind, size in self._launches)
        return self._steps

    @property
    def _steps(self) -> bool:
        """Whether single tokens, too, have a program that they fit into."""
        return any(kind == "chain" for kind, _ in self._launches)

    def keep_states(self) -> None:
        raise UserError("cache=static keeps no states, which this method needs; choose cache=full.")

    def start(self, prompt: Sequence[int], max_new_tokens: int = 0) -> list[int]:
        opening = super().start(prompt, max_new_tokens)
        self._pass.reserve(self.cache.capacity)
        self._forget_misplaced()
        return opening

    def _forget_misplaced(self) -> None:
        if self._made_for != self.cache.addresses:
            self._launches.clear()
            self._made_for = self.cache.addresses

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        if proceeds is not None or not self._whole(length, draws) or not self._ready(context):
            return super().rollout(context, length, draws, proceeds)
        launch = self._launch("rollout", length, len(context) + length)
        launch.tokens.copy_(context.tail(len(context) - 2))
        launch.first.fill_(len(context) - 2)
        draft = Draft.chain(launch.program()[:length].clone())
        self.forwards += launch.size
        self.cache.length = len(context) + length - 1
        self._commit(context, draft)
        self._memo.nodes = length - 1
        return draft

    def _whole(self, length: int, draws: Draws) -> bool:
        """Whether a draft of this length is worth one program."""
        if not draws.is_greedy:
            return False
        made = [size for kind, size in self._launches if kind == "rollout" and size >= length]
        return 0 < length <= max(WIDTHS) and (min(made, default=length) <= 2 * length or not self._steps)

    def _ready(self, context: Context) -> bool:
        """Whether all but the context's last two tokens are in the cache, once what else is there was forgotten."""
        self._rewind(context)
        return len(context) > 2 and self.cache.length >= len(context) - 2

    def _geometry(self, slots: int, lead: int, draft: Draft, held: int) -> tuple[Tensor | None, Tensor | None]:
        if draft.is_chain and self._fits(lead + len(draft) - held):
            return None, None  # made by the program itself
        return super()._geometry(slots, lead, draft, held)

    def _fits(self, width: int) -> bool:
        return self.cache.length > 0 and width <= max(WIDTHS)

    def _forward(self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None, rows: int) -> Tensor:
        width = tokens.shape[0]
        if not self._fits(width):
            return super()._forward(tokens, positions, mask, rows)
        bucket = next(w for w in WIDTHS if w >= width)
        launch = self._launch("chain" if mask is None else "tree", bucket, self.cache.length + width)
        launch.tokens[:width].copy_(tokens)
        launch.first.fill_(self.cache.length)
        if mask is not None:
            launch.positions[:width].copy_(positions)
            launch.mask.fill_(torch.finfo(self.model.dtype).min)[..., :width, : mask.shape[-1]].copy_(mask)
        logits = launch.program()[width - rows : width]
        self.cache.length += width
        self.forwards += 1
        return logits

    def _launch(self, kind: str, size: int, needed: int) -> Launch:
        """A program of this kind that attends `needed` slots or some more, for this size (rows, or drafted tokens) or the next larger one
        there is; made, for all attended lengths at once, if there is none."""
        made = [held for held_kind, held in self._launches if held_kind == kind and size <= held]
        size = min(made, default=size)
        self.cache.grow(self.cache.length + size + 2)
        self._forget_misplaced()
        if (kind, size) not in self._launches:
            reaches = range(self.block, self.cache.capacity + 1, self.block)
            self._launches[kind, size] = {reach: self._made(kind, size, reach) for reach in reaches}
        return self._launches[kind, size][-(-needed // self.block) * self.block]

    def _made(self, kind: str, size: int, reach: int) -> Launch:
        rows = 2 if kind == "rollout" else size
        like = {"dtype": torch.int64, "device": self.device}
        tokens, first, positions = torch.zeros(rows, **like), torch.zeros(1, **like), torch.zeros(rows, **like)
        mask = torch.zeros(1, 1, rows, reach, dtype=self.model.dtype, device=self.device) if kind == "tree" else None
        first.fill_(self.cache.capacity - size - 2)  # capturing runs the program: what that writes, it writes where nothing is
        steps: dict[str, Callable[[], Tensor]] = {
            "chain": lambda: self._chain(tokens, first, reach),
            "tree": lambda: self._run(tokens, first + torch.arange(rows, device=self.device), positions, mask),
            "rollout": lambda: self._drafted(tokens, first, size, reach),
        }
        return Launch(self.capture(steps[kind]), size, tokens, first, positions, mask)

    def _drafted(self, tokens: Tensor, first: Tensor, length: int, reach: int) -> Tensor:
        """[length] greedy tokens behind the two given."""
        drawn = [self._chain(tokens, first, reach)[-1:].argmax(-1)]
        while len(drawn) < length:
            drawn.append(self._chain(drawn[-1], first + (1 + len(drawn)), reach).argmax(-1))
        return torch.cat(drawn)

    def _chain(self, tokens: Tensor, first: Tensor, reach: int) -> Tensor:
        """[w] tokens at slots first, first + 1, ... -> [w, V]: row i sees the slots up to its own."""
        slots = first + torch.arange(tokens.shape[0], device=self.device)
        positions = slots if self._positions_end is None else slots.clamp(max=self._positions_end - 1)  # of rows that only fill the shape
        unseen = torch.arange(reach, device=self.device) > slots[:, None]
        mask = torch.zeros(unseen.shape, dtype=self.model.dtype, device=self.device).masked_fill_(unseen, torch.finfo(self.model.dtype).min)
        return self._run(tokens, slots, positions, mask[None, None])

    def _run(self, tokens: Tensor, slots: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        self.cache.slots, self.cache.reach = slots, mask.shape[-1]
        try:
            logits = self._pass.cached(tokens, positions, mask, self.cache, tokens.shape[0])
        finally:
            self.cache.slots = None
        return fit_vocabulary(logits, self.vocab_size)


class StaticCache(FullCache):
    """As FullCache, whose capacity is rounded up to multiples of `block`, with `spare` slots behind the text for drafts and for rows that
    only fill a shape; longer drafts make it grow.

    `addresses` changes when buffers are replaced: what was captured before is then worthless.
    """

    is_compileable = True

    def __init__(self, block: int, spare: int) -> None:
        super().__init__()
        self.block, self.spare = block, spare
        self.addresses = 0
        self.slots: Tensor | None = None  # [w] of a pass of fixed shape; None: as FullCache, behind what is filled
        self.reach = 0

    @property
    def capacity(self) -> int:
        return self._capacity

    def reserve(self, capacity: int) -> None:
        self.slots = None  # whatever a pass that failed left
        enough = self._rounded(capacity + self.spare)
        self.addresses += not self._holds(enough)
        super().reserve(enough)

    def grow(self, needed: int) -> None:
        """Room for `needed` slots, what is filled kept."""
        for layer in range(len(self.keys)):
            self.filled(layer, needed)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """[1, H, w, d] each -> views of the first `reach` slots."""
        if self.slots is None:
            return super().update(key_states, value_states, layer_idx)
        keys = self.keys[layer_idx].index_copy_(2, self.slots, key_states)
        values = self.values[layer_idx].index_copy_(2, self.slots, value_states)
        return keys.narrow(2, 0, self.reach), values.narrow(2, 0, self.reach)

    def _made(self, states: Tensor, capacity: int) -> Tensor:
        """Zeros: what was never written is seen, and weighs nothing, only if it is a number."""
        return super()._made(states, capacity).zero_()

    def _enough(self, needed: int) -> int:
        self.addresses += 1
        self._capacity = self._rounded(needed)
        return self._capacity

    def _rounded(self, slots: int) -> int:
        return -(-slots // self.block) * self.block

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return (self.reach, 0) if self.slots is not None else super().get_mask_sizes(query_length, layer_idx)
