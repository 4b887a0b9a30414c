"""A transformers model as a pure function (context, draft) -> logits, with a cache that is only a memo of it.

Nobody outside crops, rewinds or syncs a cache. Draft rollouts stay on the device. Knows nothing of text, verification or timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Facts, Proceeds, Usage
from specexp.decoding.sampling import Draws, is_numpys
from specexp.runners.caches import FullCache
from specexp.runners.calls import Architecture, DecoderOnlyPass, EncoderDecoderPass, context_length
from specexp.runners.llama import LlamaPass
from specexp.runners.masks import ChainMasks, tree_mask
from specexp.runners.memo import Memo
from specexp.runners.rollout import DeviceRollout, HostRollout, single_token
from specexp.runners.states import StateMemo

WIDEST_KEPT, MOST_KEPT = 64, 8192  # geometries kept for a next pass at the same place: rows of the widest, number of them


class _ExactRunner:
    """What holds of every runner that forgets nothing. model: a causal LM or a T5, in eval mode. vocab_size: logits are brought to this
    width (the target's): cut, or padded with -inf."""

    kind: ClassVar[str]  # of the cache, for tables and files
    cache_exact: ClassVar[bool] = True  # the cache changes nothing about the model
    tokens_evicted = 0

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None):
        self.model = model
        self.device = model.device
        self.vocab_size = vocab_size
        self._pass = _pass(model, vocab_size)
        self._states: StateMemo | None = None  # where they are asked for
        self.forwards = self._earlier = 0  # passes: since construction, and of those before the last `start`
        self.facts = Facts(self.kind, self.device, self.trees, self.cache_exact)

    def usage(self) -> Usage:
        return Usage(self.forwards - self._earlier, self.kv_bytes, self.tokens_evicted)

    @classmethod
    def longest_text(cls, config, name: str) -> int | None:
        """Tokens that a text may have with a model of this configuration; None for no limit. UserError where this cache does not fit it."""
        return context_length(config)

    def room(self, context: Context) -> int | None:
        return None

    def ready(self, width: int) -> bool:
        return True

    def ready_to_draft(self, length: int, draws: Draws) -> bool:
        return self.ready(1)

    def keep_states(self) -> None:
        self._states = StateMemo(self.model)


class ModelRunner(_ExactRunner):
    """cache: of its own; keys and values of every position by default."""

    kind = "full"

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None, cache: FullCache | None = None):
        self.architecture = Architecture.of(model)
        super().__init__(model, vocab_size)
        self.cache = FullCache() if cache is None else cache
        self._memo = Memo()
        self._masks = ChainMasks(model.dtype, self.device)
        self._positions = torch.arange(4096, device=self.device)
        self._on_host = self.device.type == "cpu"  # ids and tokens are the same
        self._blocks = _blocks() if self._on_host else []
        self._single: Sequence[Tensor] = ()
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}  # by filled slots and width; views
        self._peak = 0  # most slots that were filled before any was given up

    @property
    def kv_bytes(self) -> int:
        return max(self._peak, self.cache.length) * self.cache.bytes_per_slot + self._pass.source_bytes

    @property
    def trees(self) -> bool:
        return self.architecture.trees

    def describe(self) -> str:
        return f"a {self.architecture.model_type} model with {self.model.config._attn_implementation} attention"

    def start(self, prompt: Sequence[int], max_new_tokens: int = 0) -> list[int]:
        opening = self._pass.start(prompt)
        self._memo.clear()
        self.cache.reserve(len(opening) + max_new_tokens)
        self._peak, self._earlier = 0, self.forwards
        return opening

    def states(self, context: Context) -> Tensor:
        self._rewind(context)
        held, end = len(self._memo.ids), len(context) - 1
        if held < end:  # a text that went on without this runner, or has not begun
            slots = self.cache.length
            self._forward(context.span(held, end), *self._chain_geometry(slots, end - held), rows=1)
            self._memo.ids.extend(context.ids[held:end])
        return self._states.first(end)

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        """x_1 .. x_length from this model, fewer where `proceeds` says no. The last is not fed: the next round does so, if accepted."""
        if length == 0:
            return empty_draft(self.device)
        logits = self.logits(context, empty_draft(self.device), rows=1)
        drawn = HostRollout() if draws.is_greedy and is_numpys(logits) else DeviceRollout(context, draws)
        first = len(context) - self.cache.evicted
        token = drawn.draw(logits)
        for count in range(1, length):
            if proceeds is not None and not proceeds(count, logits[0], token[0], draws):
                break
            logits = self._forward(token, self._position(first + count - 1), None, 1)  # one row sees everything: no mask
            token = drawn.draw(logits)
        draft = drawn.draft()
        self._memo.draft, self._memo.nodes = draft, len(draft) - 1
        return draft

    def logits(self, context: Context, draft: Draft, rows: int) -> Tensor:
        """Feeds only what the cache lacks."""
        held = self._memo.holds(context, draft)
        if not held or rows > len(draft) - held:
            held = 0
            self._rewind(context)
        slots = len(context) - self.cache.evicted  # of the context, its last token's among them
        lead = slots - self.cache.length if not held else 0
        scores = self._forward(self._fed(context, lead, draft, held), *self._geometry(slots, lead, draft, held), rows)
        self._commit(context, draft)
        return scores

    def _fed(self, context: Context, lead: int, draft: Draft, held: int) -> Tensor:
        """[n] the context's last `lead` tokens and the draft's nodes from `held` on; as the draft was made, where that is just them."""
        if self._on_host:
            return self._spelled([*context.ids[len(context) - lead :], *draft.ids[held:]])
        if lead == 1 and not held and (block := draft.block_behind(context.ids[-1])) is not None:
            return block
        tokens = context.tail(len(context) - lead)
        if len(draft):
            tokens = torch.cat([tokens, draft.tokens[held:] if held else draft.tokens])
        return tokens

    def _spelled(self, ids: list[int]) -> Tensor:
        """[n] these ids on the CPU; a few in a tensor that the next pass of this width writes over."""
        width = len(ids)
        if width == 1:
            return single_token(ids[0])
        if width > WIDEST_KEPT:
            return torch.tensor(ids)
        block, array = self._blocks[width]
        array[:] = ids
        return block

    def _rewind(self, context: Context) -> None:
        """Keep what spells the context, but for its last token: its logits are always wanted."""
        self._peak = max(self._peak, self.cache.length)
        slots = len(self._memo.ids) - self.cache.evicted
        path = self._memo.rewind(context)
        if path and path[-1] >= len(path):  # ascending, so else 0, 1, ..: in place already
            self.cache.gather([slots + node for node in path], slots)
            if self._states is not None:
                self._states.gather([slots + self.cache.evicted + node for node in path], slots + self.cache.evicted)
        self._memo.truncate(len(context) - 1)
        self.cache.length = len(self._memo.ids) - self.cache.evicted

    def _commit(self, context: Context, draft: Draft) -> None:
        self._memo.ids.extend(context.ids[len(self._memo.ids) :])
        self._memo.draft, self._memo.nodes = (draft, len(draft)) if len(draft) else (None, 0)

    def _geometry(self, slots: int, lead: int, draft: Draft, held: int) -> tuple[Tensor, Tensor | None]:
        """Positions and mask of a pass over the last `lead` of `slots` context tokens and the draft's nodes from `held` on."""
        if draft.is_chain:
            return self._chain_geometry(self.cache.length, lead + len(draft) - held)
        if not self.trees:
            raise ValueError(f"{self.describe()} cannot score token trees.")
        depths = torch.tensor(draft.depths[held:], device=self.device)
        positions = torch.cat([self._range(slots - lead, lead), depths + (slots - 1)])
        mask = tree_mask(self.cache.length, lead, draft.parents, len(draft) - held, self.model.dtype, self.device)
        return positions, mask

    def _chain_geometry(self, filled: int, width: int) -> tuple[Tensor, Tensor | None]:
        """Positions [width] and mask. No mask for one row (it sees everything) nor for a prefill (plain causal attention)."""
        if (found := self._places.get((filled, width))) is not None:
            return found
        masked = self.architecture.own_masks and width > 1 and filled > 0
        geometry = self._range(filled, width), self._masks(filled, width) if masked else None
        if width <= WIDEST_KEPT and len(self._places) < MOST_KEPT:
            self._places[filled, width] = geometry
        return geometry

    def _range(self, start: int, width: int) -> Tensor:
        """[width] positions: a view, not a copy from the host."""
        if start + width > len(self._positions):
            self._positions = torch.arange(2 * (start + width), device=self.device)
        return self._positions.narrow(0, start, width)

    def _position(self, slot: int) -> Tensor:
        """[1]: one of tensors made once."""
        if slot >= len(self._single):
            self._single = torch.arange(max(256, 2 * slot), device=self.device).split(1)
        return self._single[slot]

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, rows: int) -> Tensor:
        """[n] tokens into the slots from `cache.length` on -> [rows, V] logits of the last rows."""
        if self._states is None:
            logits = self._pass.cached(tokens, positions, mask, self.cache, rows)
        else:  # of every row, since what the output projection does not read cannot be caught
            with self._states.writing(self.cache.length + self.cache.evicted):
                logits = self._pass.cached(tokens, positions, mask, self.cache, tokens.shape[0])[-rows:]
        self.cache.length += tokens.shape[0]
        self.forwards += 1
        return logits if logits.shape[-1] == self.vocab_size else fit_vocabulary(logits, self.vocab_size)


class StatelessRunner(_ExactRunner):
    """The same function without any memory: a full pass each time (`cache=none`). The oracle the others are tested against."""

    kind = "none"
    trees = True
    kv_bytes = 0

    def describe(self) -> str:
        return f"a {self.model.config.model_type} model without a cache"

    def start(self, prompt: Sequence[int], max_new_tokens: int = 0) -> list[int]:
        self._earlier = self.forwards
        return self._pass.start(prompt)

    def states(self, context: Context) -> Tensor:
        end = len(context) - 1
        if end:
            with self._states.writing(0):
                self._full(context.span(0, end), rows=end)
        return self._states.first(end)

    def logits(self, context: Context, draft: Draft, rows: int) -> Tensor:
        """A chain in one pass; a tree as one full pass per node, over the text that this node ends."""
        if draft.is_chain:
            return self._full(torch.cat([context.tokens, draft.tokens]), rows)
        wanted = range(len(draft) - rows, len(draft))  # -1 is the context's last token
        texts = [torch.cat([context.tokens, draft.tokens[list(draft.path(node))]]) for node in wanted]
        return torch.cat([self._full(text, 1) for text in texts])

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        draft, q = empty_draft(self.device), []
        while len(draft) < length:
            logits = self.logits(context, draft, rows=1)
            token, distribution = draws.token(logits)
            draft = Draft.chain(torch.cat([draft.tokens, token]))
            q.append(distribution)
            if proceeds is not None and len(draft) < length and not proceeds(len(draft), logits[0], token[0], draws):
                break
        return Draft.chain(draft.tokens, None if not q or q[0] is None else torch.cat(q))

    def _full(self, tokens: Tensor, rows: int) -> Tensor:
        self.forwards += 1
        return fit_vocabulary(self._pass.full(tokens, rows), self.vocab_size)


def _blocks() -> list[tuple[Tensor, np.ndarray]]:
    """By width up to WIDEST_KEPT: [width] int64 and the same memory as NumPy has it."""
    blocks = torch.empty(WIDEST_KEPT + 1, WIDEST_KEPT, dtype=torch.int64)
    return [(block[:width], block.numpy()[:width]) for width, block in enumerate(blocks)]


def _pass(model: torch.nn.Module, vocab_size: int | None) -> DecoderOnlyPass | EncoderDecoderPass:
    """How this kind of model is called."""
    decoder_only = LlamaPass if LlamaPass.runs(model) else DecoderOnlyPass
    kind = EncoderDecoderPass if model.config.is_encoder_decoder else decoder_only
    return kind(model, Architecture.of(model), KnownIds(model, vocab_size))


class KnownIds:
    """A draft with fewer embeddings than the target has ids reads those it lacks as its last one: a guess, never an error."""

    def __init__(self, model: torch.nn.Module, vocab_size: int | None):
        known = model.get_input_embeddings().num_embeddings
        self.largest = known - 1 if vocab_size is not None and known < vocab_size else None

    def __call__(self, tokens: Tensor) -> Tensor:
        return tokens if self.largest is None else tokens.clamp(max=self.largest)


def fit_vocabulary(logits: Tensor, vocab_size: int | None) -> Tensor:
    """[..., V'] -> [..., V]: ids the target lacks are cut, ids the draft lacks get -inf (q = 0)."""
    if vocab_size is None or logits.shape[-1] == vocab_size:
        return logits
    if logits.shape[-1] > vocab_size:
        return logits[..., :vocab_size]
    return torch.nn.functional.pad(logits, (0, vocab_size - logits.shape[-1]), value=float("-inf"))
