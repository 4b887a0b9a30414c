"""A runner whose passes have fixed shapes, so that they can be captured as CUDA graphs (`cache=static`). On other devices the same passes
run uncaptured.

A program is a pass of one shape, or a whole greedy draft, that can be launched again and again (capture.py):

- A pass over w rows is padded to the next width in WIDTHS, and attends the filled slots rounded up to a multiple of `block`. For example,
  10 rows after 300 tokens run as 12 rows over 512 slots. The rows that only fill the shape write into slots after the text, and the next
  pass writes over these.
- A greedy draft is one program from its first token to its last. Its first step always has two rows, because after a round that was
  accepted whole the draft model has two tokens to read. Under sampling, and with a policy that decides token by token, each step is a
  program of its own.
- A prefill may have any length and runs eagerly, and so does a pass over more than 64 rows.

Programs are made when they are first needed, and thrown away when a longer text needs larger buffers; so a warm-up should use the longest
text. The last drafts of a text are often shorter than any program. Such a draft runs a longer draft's program and is cut, unless that would
take more than twice its passes and there are programs for single steps.

`StaticCache` holds keys and values at addresses that do not change while the buffers suffice. Where a pass writes is given by a tensor
(`slots`), and how far it sees by a number (`reach`); the runner sets both. The cache knows nothing of graphs.
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
from specexp.runners.calls import Architecture
from specexp.runners.capture import Program, capture_for
from specexp.runners.lengths import looked_up_positions, rotations, slides, within_window
from specexp.runners.runner import ModelRunner, fit_vocabulary

# Model types of which nothing in a pass depends on numbers that only the host can read, as the choice of experts does.
CAPTURED = frozenset({"llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral", "opt", "phi", "gptj", "gemma2", "gemma3_text"})
WIDTHS = (*range(1, 9), 12, 16, 24, 32, 48, 64)  # the numbers of rows that a program may have; wider passes run eagerly


@dataclass(frozen=True)
class Launch:
    """A program and the tensors that it reads. size: its number of rows, or of drafted tokens. first: the slot of the first row. mask: only
    for a tree; the mask of a chain is made from `first` by the program itself."""

    program: Program
    size: int
    tokens: Tensor
    first: Tensor
    positions: Tensor
    mask: Tensor | None = None


class StaticRunner(ModelRunner):
    """A model whose passes have fixed shapes. block: the number of slots that a pass attends is a multiple of it. capture: auto, graphs or
    none, as in `capture_for`. Raises UserError for models whose passes cannot be captured.
    """

    kind = "static"
    can_keep_states = False

    @classmethod
    def longest_text(cls, config: object, name: str, block: int = 256, capture: str = "auto") -> int | None:
        if block < 1:
            raise UserError(f"cache.block={block} does not fit; give 1 or more.")
        by_length = {each.get("rope_type") for each in rotations(config)} & {"dynamic", "longrope"}  # these are looked up on the host
        if config.model_type not in CAPTURED or by_length:
            raise UserError(f"{name} is a {config.model_type} model, which a static cache would make wrong; choose cache=full.")
        return within_window(super().longest_text(config, name), config)

    @staticmethod
    def fits(model: torch.nn.Module) -> bool:
        """Whether the passes of this model can be captured for texts of any length."""
        return not slides(model.config) and _can_be_captured(model)

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None, block: int = 256, capture: str = "auto"):
        super().__init__(model, vocab_size, StaticCache(block, spare=max(WIDTHS)))
        if not _can_be_captured(model):
            raise UserError(f"{self.describe()} cannot run with a static cache; choose cache=full.")
        self.architecture = self.architecture.within_window()
        self.block = block
        self.capture = capture_for(capture, model.device)
        self._positions_end = looked_up_positions(model.config)
        self._launches: dict[tuple[str, int], dict[int, Launch]] = {}  # (kind, size) -> attended length -> launch
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
        """Whether there is a program for single tokens."""
        return any(kind == "chain" for kind, _ in self._launches)


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
        """Whether a draft of this length is to run as one program."""
        if not draws.is_greedy:
            return False
        made = [size for kind, size in self._launches if kind == "rollout" and size >= length]
        return 0 < length <= max(WIDTHS) and (min(made, default=length) <= 2 * length or not self._steps)

    def _ready(self, context: Context) -> bool:
        """Forget what does not agree with the context, and return whether all of it but at most the last two tokens is in the cache."""
        self._rewind(context)
        return len(context) > 2 and self.cache.length >= len(context) - 2

    def _geometry(self, slots: int, lead: int, draft: Draft, held: int) -> tuple[Tensor | None, Tensor | None]:
        if draft.is_chain and self._fits(lead + len(draft) - held):
            return None, None  # the program makes both itself
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
        """Return a program of this kind that attends at least `needed` slots. Its size (rows, or drafted tokens) is `size`, or the next
        larger one that has been made. If there is none, programs of this size are made for all attended lengths at once."""
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
        first.fill_(self.cache.capacity - size - 2)  # capturing runs the program, which writes into slots that hold nothing
        steps: dict[str, Callable[[], Tensor]] = {
            "chain": lambda: self._chain(tokens, first, reach),
            "tree": lambda: self._run(tokens, first + torch.arange(rows, device=self.device), positions, mask),
            "rollout": lambda: self._drafted(tokens, first, size, reach),
        }
        return Launch(self.capture(steps[kind]), size, tokens, first, positions, mask)

    def _drafted(self, tokens: Tensor, first: Tensor, length: int, reach: int) -> Tensor:
        """Return the [length] greedy tokens that follow the two given ones."""
        drawn = [self._chain(tokens, first, reach)[-1:].argmax(-1)]
        while len(drawn) < length:
            drawn.append(self._chain(drawn[-1], first + (1 + len(drawn)), reach).argmax(-1))
        return torch.cat(drawn)

    def _chain(self, tokens: Tensor, first: Tensor, reach: int) -> Tensor:
        """Run a chain of [w] tokens in the slots first, first + 1, and so on -> [w, V]. Row i sees the slots up to its own."""
        slots = first + torch.arange(tokens.shape[0], device=self.device)
        positions = slots if self._positions_end is None else slots.clamp(max=self._positions_end - 1)  # for rows that only fill the shape
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


def _can_be_captured(model: torch.nn.Module) -> bool:
    """Whether this model's attention accepts a mask of ours, and nothing in a pass waits for the host. So the model may not be spread over
    several devices, and not be quantised, since some such products look for outliers first."""
    masked = model.config.model_type in CAPTURED and Architecture.of(model).trees
    moved = len({parameter.device for parameter in model.parameters()}) > 1 or any(hasattr(m, "_hf_hook") for m in model.modules())
    return masked and not moved and getattr(model.config, "quantization_config", None) is None


class StaticCache(FullCache):
    """A full cache whose capacity is a multiple of `block`. It has `spare` slots after the text, for drafts and for rows that only fill a
    shape, and grows for longer drafts.

    `addresses` is a number that changes when the buffers are replaced. Programs that were captured before can then no longer be used.
    """

    is_compileable = True

    def __init__(self, block: int, spare: int) -> None:
        super().__init__()
        self.block, self.spare = block, spare
        self.addresses = 0
        self.slots: Tensor | None = None  # [w], where a pass of fixed shape writes; None: after what is filled, as FullCache does
        self.reach = 0

    @property
    def capacity(self) -> int:
        return self._capacity

    def reserve(self, capacity: int) -> None:
        self.slots = None  # a pass that failed may have left some
        enough = self._rounded(capacity + self.spare)
        self.addresses += not self._holds(enough)
        super().reserve(enough)

    def grow(self, needed: int) -> None:
        """Make room for `needed` slots, and keep what is filled."""
        for layer in range(len(self.keys)):
            self.filled(layer, needed)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write keys and values, [1, H, w, d] each, and return views of the first `reach` slots."""
        if self.slots is None:
            return super().update(key_states, value_states, layer_idx)
        keys = self.keys[layer_idx].index_copy_(2, self.slots, key_states)
        values = self.values[layer_idx].index_copy_(2, self.slots, value_states)
        return keys.narrow(2, 0, self.reach), values.narrow(2, 0, self.reach)

    def _made(self, states: Tensor, capacity: int) -> Tensor:
        """Fill new buffers with zeros. A pass also reads slots that were never written, with weight 0, and 0 times NaN would be NaN."""
        return super()._made(states, capacity).zero_()

    def _enough(self, needed: int) -> int:
        self.addresses += 1
        self._capacity = self._rounded(needed)
        return self._capacity

    def _rounded(self, slots: int) -> int:
        return -(-slots // self.block) * self.block

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return (self.reach, 0) if self.slots is not None else super().get_mask_sizes(query_length, layer_idx)
