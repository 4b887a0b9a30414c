"""Is a model right with its cache? Before anything is timed, a short text is read in pieces with the cache, and as a whole without one.
Where the logits differ by more than rounding, or a layer kept nothing, the model is refused by its name, with the cache that works.

No list of architectures is needed for this, so a model of tomorrow is guarded too. The text is shorter than any window or eviction: what
happens to long texts is read off the configuration (specexp/runners/lengths.py).

    the text        t0 ... t11 | t12 ... t16 | t17          compared are, with what the whole text gave without a cache,
    fed at a time   12 tokens  | 5 tokens    | 1 token      the logits of t11, of t12 to t16, and of t17;
    taken back      t14 ... t17 are fed once more           and those of t14 to t17 again, after the cache has forgotten them
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Runner
from specexp.errors import UserError
from specexp.models.loading import is_out_of_memory
from specexp.runners.beams import CachedBeamRunner
from specexp.runners.lengths import context_length
from specexp.runners.runner import ModelRunner, StatelessRunner

FIRST, SECOND, LENGTH = 12, 17, 18  # where the pieces end
AGAIN = 14  # from here on the text is fed once more
# The largest difference of a row's logits that counts as rounding, in units of the row's standard deviation. Between two shapes of a pass
# float32 differs by 1e-5 or so, 16-bit types by a few hundredths, and a model that has lost its context by 1 or more.
EXACT, COARSE = 0.02, 0.5
WRONG_ROWS = 0.5  # of coarse rows so many have to differ: in a mixture of experts rounding can send single rows to another expert
# What code that we do not know raises over a cache that it does not know.
FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def guarded(decoders: Iterable[Decoder]) -> list[tuple[str, Runner]]:
    """Our runners in these decoders, with their roles: one for each role, model and kind of cache, as the others would do the same. Passes
    of another maker's loop are not ours, and the texts of a beam search are kept each as one text is.
    """
    found: dict[tuple, Runner] = {}
    for decoder in decoders:
        for role, runner in ({"target": decoder.target} | dict(decoder.drafter.models)).items():
            if isinstance(runner, CachedBeamRunner):
                runner = ModelRunner(runner.model, runner.vocab_size)
            if isinstance(runner, ModelRunner | StatelessRunner):
                found.setdefault((role, runner.facts.kind, id(runner.model)), runner)
    return [(role, runner) for (role, _, _), runner in found.items()]


@torch.inference_mode()
def guard(runners: Iterable[tuple[str, Runner]], ids: Sequence[int]) -> None:
    """Raises UserError for the first of the models that is wrong with its cache. runners: each with its role ("target", a draft's name).
    ids: of a prompt. The runners are left as before any text.
    """
    for role, runner in runners:
        if (context_length(runner.model.config) or LENGTH) >= LENGTH:
            _guard_one(role, runner, ids[:LENGTH])


def _guard_one(role: str, runner: Runner, ids: Sequence[int]) -> None:
    name = f"the {role} model, a {runner.model.config.model_type},"
    alone = StatelessRunner(runner.model, runner.vocab_size)
    text = list(islice(cycle([*alone.start(ids), *ids]), LENGTH))
    try:
        whole = alone.logits(Context(text[:1], runner.device), _chain(text[1:], runner), rows=LENGTH)
        beginning = alone.logits(Context(text[:FIRST], runner.device), _chain([], runner), rows=1)
    except FOREIGN as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{name} cannot read a text ({_reason(error)}); choose another model.") from error
    if _differ(beginning, whole[FIRST - 1 : FIRST]):
        raise UserError(f"{name} looks at later tokens, so it does not write texts from left to right; choose a causal language model.")
    if runner.facts.kind == alone.kind:
        return
    way_out = f"so it would write another text with cache={runner.facts.kind}; choose cache=none, with which it is right"
    try:
        pieces = list(_pieces(runner, ids, text))
        kept = len(runner.cache)
    except FOREIGN as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{name} does not take this cache ({_reason(error)}), {way_out}.") from error
    if any(_differ(logits, whole[end - logits.shape[0] : end]) for logits, end in pieces):
        raise UserError(f"{name} gives other logits from its cache than without one, {way_out}.")
    if kept < (layers := _layers(runner.model.config)):
        raise UserError(f"{name} keeps the keys and values of {kept} of its {layers} layers only, {way_out}.")


def _pieces(runner: ModelRunner, ids: Sequence[int], text: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
    """The logits of each piece, and how many tokens of the text were read by then."""
    runner.start(ids, LENGTH)
    context = Context(text[:FIRST], runner.device, capacity=LENGTH)
    yield runner.logits(context, _chain([], runner), rows=1).clone(), FIRST
    context.append(text[FIRST : FIRST + 1])
    yield runner.logits(context, _chain(text[FIRST + 1 : SECOND], runner), rows=SECOND - FIRST).clone(), SECOND
    context.append(text[FIRST + 1 : LENGTH])
    yield runner.logits(context, _chain([], runner), rows=1).clone(), LENGTH
    back = Context(text[: AGAIN + 1], runner.device, capacity=LENGTH)
    yield runner.logits(back, _chain(text[AGAIN + 1 :], runner), rows=LENGTH - AGAIN).clone(), LENGTH
    runner.start(ids, LENGTH)


def _chain(ids: Sequence[int], runner: Runner) -> Draft:
    return Draft.of_ids(list(ids), runner.device)


def _differ(logits: Tensor, expected: Tensor) -> bool:
    """Whether rows [n, V] differ by more than rounding. Ids that a model lacks (-inf) have to be the same."""
    ours, theirs = logits.double(), expected.double()
    if not torch.equal(ours.isfinite(), theirs.isfinite()):
        return True
    known = theirs.isfinite()
    difference = (ours - theirs).masked_fill(~known, 0).abs().amax(-1)
    count = known.sum(-1).clamp(min=1)
    mean = theirs.masked_fill(~known, 0).sum(-1) / count
    spread = ((theirs - mean[:, None]).masked_fill(~known, 0).square().sum(-1) / count).sqrt()
    relative = difference / spread.clamp(min=1e-6)
    if expected.dtype in (torch.float32, torch.float64):
        return bool((relative > EXACT).any())
    return bool((relative > COARSE).double().mean() > WRONG_ROWS)


def _layers(config: object) -> int:
    """How many layers keep keys and values of their own; 0 where the configuration does not say."""
    if config.is_encoder_decoder:
        return getattr(config, "num_decoder_layers", None) or getattr(config, "num_hidden_layers", 0)
    text = config.get_text_config(decoder=True)
    return (getattr(text, "num_hidden_layers", None) or 0) - (getattr(text, "num_kv_shared_layers", None) or 0)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}".rstrip(": ")
