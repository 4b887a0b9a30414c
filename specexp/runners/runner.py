"""A transformers model as a pure function (context, draft) -> logits.

`ModelRunner` has a cache, which saves work and changes no answer: for every call it finds out what of the context and the draft is in the
cache already and feeds only the rest. So nobody else has to shorten or synchronise a cache. `StatelessRunner` has none and feeds the whole
text in each pass; it is slow, and the tests compare the other runners with it. Draft rollouts stay on the device. Runners know nothing of
text, verification or timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import DeviceRollout, Draft, HostRollout, empty_draft, single_token
from specexp.decoding.protocols import Facts, Proceeds, Usage
from specexp.decoding.sampling import Draws, is_numpys
from specexp.errors import UserError
from specexp.runners.caches import FullCache
from specexp.runners.calls import Architecture, ChainMasks, DecoderOnlyPass, EncoderDecoderPass, tree_mask
from specexp.runners.lengths import context_length, keeps_state
from specexp.runners.llama import LlamaPass
from specexp.runners.memo import Memo
from specexp.runners.states import StateMemo

WIDEST_KEPT, MOST_KEPT = 64, 8192  # positions and masks are kept for the next pass of the same shape: the most rows of one, and how many


class _ExactRunner:
    """What all runners share. model: a causal language model or a T5, in eval mode. vocab_size: the width that logits are brought to, which
    is the target's; they are cut, or padded with -inf."""

    kind: ClassVar[str]  # the name of the kind of cache, for tables and files
    cache_exact: ClassVar[bool] = True  # whether the model answers as it would without a cache
    can_keep_states: ClassVar[bool] = True
    tokens_evicted = 0

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None):
        self.model = model
        self.device = model.device
        self.vocab_size = vocab_size
        self._pass = _pass(model, vocab_size)
        self._states: StateMemo | None = None  # only if `keep_states` was called
        self.forwards = self._earlier = 0  # the passes since construction, and those of them before the last `start`
        self.facts = Facts(self.kind, self.device, self.trees, self.cache_exact, self.can_keep_states)

    def usage(self) -> Usage:
        return Usage(self.forwards - self._earlier, self.kv_bytes, self.tokens_evicted)

    @classmethod
    def longest_text(cls, config, name: str) -> int | None:
        """Return the most tokens that a text may have with a model of this configuration, or None if there is no limit. Raises UserError if
        this kind of cache does not fit the model."""
        return context_length(config)

    def room(self, context: Context) -> int | None:
        return None

    def ready(self, width: int) -> bool:
        return True

    def ready_to_draft(self, length: int, draws: Draws) -> bool:
        return self.ready(1)

    def keep_states(self) -> None:
        self.facts.check_states()
        self._states = StateMemo(self.model)


class ModelRunner(_ExactRunner):
    """A model with a cache of its own. cache: by default one that keeps the keys and values of every position."""

    kind = "full"

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None, cache: FullCache | None = None):
        self.architecture = Architecture.of(model)
        super().__init__(model, vocab_size)
        self.cache = FullCache() if cache is None else cache
        self._memo = Memo()
        self._masks = ChainMasks(model.dtype, self.device)
        self._positions = torch.arange(4096, device=self.device)
        self._on_host = self.device.type == "cpu"  # then tokens need not be copied to the device
        self._blocks = _blocks() if self._on_host else []
        self._single: Sequence[Tensor] = ()
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}  # (filled slots, width) -> positions and mask
        self._peak = 0  # the most slots that were filled at any time

    @classmethod
    def longest_text(cls, config, name: str) -> int | None:
        if keeps_state(config):
            kind = config.model_type
            raise UserError(f"{name} is a {kind} model, some layers of which keep a state that cannot be taken back; choose cache=none.")
        return super().longest_text(config, name)

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
        if held < end:  # the text went on without this runner, or has not been read at all
            slots = self.cache.length
            self._forward(context.span(held, end), *self._chain_geometry(slots, end - held), rows=1)
            self._memo.ids.extend(context.ids[held:end])
        return self._states.first(end)

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        """Draw x_1 .. x_length from this model, or fewer if `proceeds` says no. The last token is not fed; the next round feeds it if it is
        accepted."""
        if length == 0:
            return empty_draft(self.device)
        logits = self.logits(context, empty_draft(self.device), rows=1)
        drawn = HostRollout() if draws.is_greedy and is_numpys(logits) else DeviceRollout(context, draws)
        first = len(context) - self.cache.evicted
        token = drawn.draw(logits)
        for count in range(1, length):
            if proceeds is not None and not proceeds(count, logits[0], token[0], draws):
                break
            logits = self._forward(token, self._position(first + count - 1), None, 1)  # one row sees everything, so no mask
            token = drawn.draw(logits)
        draft = drawn.draft()
        self._memo.draft, self._memo.nodes = draft, len(draft) - 1
        return draft

    def logits(self, context: Context, draft: Draft, rows: int) -> Tensor:
        """Feed what the cache does not hold yet, and return the last `rows` rows of logits."""
        held = self._memo.holds(context, draft)
        if not held or rows > len(draft) - held:
            held = 0
            self._rewind(context)
        slots = len(context) - self.cache.evicted  # the number of slots of the context, including its last token's
        lead = slots - self.cache.length if not held else 0
        scores = self._forward(self._fed(context, lead, draft, held), *self._geometry(slots, lead, draft, held), rows)
        self._commit(context, draft)
        return scores

    def _fed(self, context: Context, lead: int, draft: Draft, held: int) -> Tensor:
        """Return the tokens to feed, [n]: the context's last `lead` tokens and the draft's nodes from `held` on. If the draft was made from
        a block of just these, that block is returned."""
        if self._on_host:
            return self._spelled([*context.ids[len(context) - lead :], *draft.ids[held:]])
        if lead == 1 and not held and (block := draft.block_after(context.ids[-1])) is not None:
            return block
        tokens = context.tail(len(context) - lead)
        if len(draft):
            tokens = torch.cat([tokens, draft.tokens[held:] if held else draft.tokens])
        return tokens

    def _spelled(self, ids: list[int]) -> Tensor:
        """Return these ids as a tensor, [n] on the CPU. Up to WIDEST_KEPT of them share a tensor that the next pass of this width writes
        over."""
        width = len(ids)
        if width == 1:
            return single_token(ids[0])
        if width > WIDEST_KEPT:
            return torch.tensor(ids)
        block, array = self._blocks[width]
        array[:] = ids
        return block

    def _rewind(self, context: Context) -> None:
        """Keep in the cache what agrees with the context, except for the context's last token, which is always fed again because its logits
        are wanted."""
        self._peak = max(self._peak, self.cache.length)
        slots = len(self._memo.ids) - self.cache.evicted
        path = self._memo.rewind(context)
        if path and path[-1] >= len(path):  # otherwise the path is 0, 1, .. and in its place already
            self.cache.gather([slots + node for node in path], slots)
            if self._states is not None:
                self._states.gather([slots + self.cache.evicted + node for node in path], slots + self.cache.evicted)
        self._memo.truncate(len(context) - 1)
        self.cache.length = len(self._memo.ids) - self.cache.evicted

    def _commit(self, context: Context, draft: Draft) -> None:
        self._memo.ids.extend(context.ids[len(self._memo.ids) :])
        self._memo.draft, self._memo.nodes = (draft, len(draft)) if len(draft) else (None, 0)

    def _geometry(self, slots: int, lead: int, draft: Draft, held: int) -> tuple[Tensor, Tensor | None]:
        """Return positions and mask of a pass over the last `lead` of `slots` context tokens and the draft's nodes from `held` on."""
        if draft.is_chain:
            return self._chain_geometry(self.cache.length, lead + len(draft) - held)
        if not self.trees:
            raise ValueError(f"{self.describe()} cannot score token trees.")
        depths = torch.tensor(draft.depths[held:], device=self.device)
        positions = torch.cat([self._range(slots - lead, lead), depths + (slots - 1)])
        mask = tree_mask(self.cache.length, lead, draft.parents, len(draft) - held, self.model.dtype, self.device)
        if self.architecture.window is None:
            return positions, mask
        nodes = torch.tensor(draft.depths, device=self.device) + (slots - 1)
        return positions, self.architecture.tree_masks(mask, positions, torch.cat([self._range(0, slots), nodes]))

    def _chain_geometry(self, filled: int, width: int) -> tuple[Tensor, Tensor | None]:
        """Return positions [width] and mask of a pass over a chain. There is no mask for a single row, which sees everything, and none for
        a prefill, which is plain causal attention."""
        if (found := self._places.get((filled, width))) is not None:
            return found
        masked = self.architecture.own_masks and width > 1 and filled > 0
        geometry = self._range(filled, width), self._masks(filled, width) if masked else None
        if width <= WIDEST_KEPT and len(self._places) < MOST_KEPT:
            self._places[filled, width] = geometry
        return geometry

    def _range(self, start: int, width: int) -> Tensor:
        """Return the positions from `start` on, [width], as a view, which needs no copy from the host."""
        if start + width > len(self._positions):
            self._positions = torch.arange(2 * (start + width), device=self.device)
        return self._positions.narrow(0, start, width)

    def _position(self, slot: int) -> Tensor:
        """Return one position, [1]. These tensors are made once."""
        if slot >= len(self._single):
            self._single = torch.arange(max(256, 2 * slot), device=self.device).split(1)
        return self._single[slot]

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, rows: int) -> Tensor:
        """Feed [n] tokens, whose keys and values go into the slots from `cache.length` on. Returns the logits of the last rows, [rows,
        V]."""
        if self._states is None:
            logits = self._pass.cached(tokens, positions, mask, self.cache, rows)
        else:  # the logits of every row are computed, because only what the output projection reads can be caught
            with self._states.writing(self.cache.length + self.cache.evicted):
                logits = self._pass.cached(tokens, positions, mask, self.cache, tokens.shape[0])[-rows:]
        self.cache.length += tokens.shape[0]
        self.forwards += 1
        return logits if logits.shape[-1] == self.vocab_size else fit_vocabulary(logits, self.vocab_size)


class StatelessRunner(_ExactRunner):
    """A model without a cache (`cache=none`): every pass reads the whole text. This is slow and simple, and the other runners are tested
    against it."""

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
        """Score a chain in one pass. A tree takes one pass per node, over the text that ends with this node."""
        if draft.is_chain:
            return self._full(torch.cat([context.tokens, draft.tokens]), rows)
        wanted = range(len(draft) - rows, len(draft))  # -1 stands for the context's last token
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
    """Return, for each width up to WIDEST_KEPT, a [width] int64 tensor and a NumPy array over the same memory."""
    blocks = torch.empty(WIDEST_KEPT + 1, WIDEST_KEPT, dtype=torch.int64)
    return [(block[:width], block.numpy()[:width]) for width, block in enumerate(blocks)]


def _pass(model: torch.nn.Module, vocab_size: int | None) -> DecoderOnlyPass | EncoderDecoderPass:
    """Return the way in which this kind of model is called."""
    decoder_only = LlamaPass if LlamaPass.runs(model) else DecoderOnlyPass
    kind = EncoderDecoderPass if model.config.is_encoder_decoder else decoder_only
    return kind(model, Architecture.of(model), KnownIds(model, vocab_size))


class KnownIds:
    """Brings ids into the range of a model's embeddings. A draft model may have fewer embeddings than the target has ids; it reads every id
    that it lacks as its last one, so it guesses badly there and never fails."""

    def __init__(self, model: torch.nn.Module, vocab_size: int | None):
        known = model.get_input_embeddings().num_embeddings
        self.largest = known - 1 if vocab_size is not None and known < vocab_size else None

    def __call__(self, tokens: Tensor) -> Tensor:
        return tokens if self.largest is None else tokens.clamp(max=self.largest)


def fit_vocabulary(logits: Tensor, vocab_size: int | None) -> Tensor:
    """Bring logits to the target's width, [..., V'] -> [..., V]. Ids that the target lacks are cut, and ids that the draft model lacks get
    -inf, so that q = 0."""
    if vocab_size is None or logits.shape[-1] == vocab_size:
        return logits
    if logits.shape[-1] > vocab_size:
        return logits[..., :vocab_size]
    return torch.nn.functional.pad(logits, (0, vocab_size - logits.shape[-1]), value=float("-inf"))
