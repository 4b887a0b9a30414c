"""One request to transformers' `generate` on weights that are ours.

The settings are made from ours alone, so that no default of a checkpoint or of the library enters. The model is lent to the peer for the
request, and nothing that the peer sets on it is left behind. The tokens are noted with their times as they come, token by token or block
by block, and become the rounds of a record afterwards. The request runs where it is called and not in a thread of its own: a thread would
compete with the peer for the interpreter, and compiled graphs cannot be used from another thread.

This module does not know how many passes a peer's loop makes; the peer's decoder counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from logging import LogRecord, getLogger
from time import perf_counter

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from specexp.decoding.decoder import Round
from specexp.decoding.draft import chain_parents
from specexp.decoding.protocols import Cut, Facts, Stop, Usage
from specexp.decoding.sampling import Draws, Sampling
from specexp.errors import UserError
from specexp.runners.calls import decoder_start
from specexp.runners.runner import ModelRunner, StatelessRunner


@dataclass(frozen=True)
class Request:
    """What the experiment asks for. The arguments are those of `Decoder.generate`."""

    target: SharedModel
    prompt: Sequence[int]
    max_new_tokens: int
    stop: Stop
    draws: Draws

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Those of the model's own end-of-text ids at which `stop` ends a text; none where `stop` ignores them."""
        model = self.target.model
        ids = {*_ids(model.generation_config.eos_token_id), *_ids(model.config.get_text_config().eos_token_id)}
        return tuple(id for id in sorted(ids) if (cut := self.stop((id,), 0)) is not None and cut.finish == "eos")

    def emissions(self) -> Emissions:
        return Emissions(1 if self.target.model.config.is_encoder_decoder else len(self.prompt), self.stop)

    def settings(self, **values: object) -> GenerationConfig:
        """The generation settings for the target: ours, and `values`."""
        own = sampling_settings(self.draws.sampling) | special_ids(self.target.model, self.ends)
        return GenerationConfig(max_new_tokens=self.max_new_tokens, return_dict_in_generate=True, **own, **values)

    def run(self, settings: GenerationConfig, attributes: dict[str, object] | None = None, **arguments: object) -> object:
        """Calls `generate` and gives its output. attributes: what the model has during the call. Generation settings are among them, empty
        ones if none are given, because `generate` looks up there whatever is None in `settings` (even an end-of-text id that is to be
        ignored).
        """
        ids = torch.tensor([list(self.prompt)], device=self.target.device)
        luck = nullcontext() if self.draws.is_greedy else seeded(self.draws, self.target.device)
        with luck, quiet(), self.target.lent(**({"generation_config": self.settings()} | (attributes or {}))):
            return self.target.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings, **arguments)


def sampling_settings(sampling: Sampling) -> dict[str, object]:
    """The sampling rule with every number written out, since the library replaces what is None (top_k by 50)."""
    if sampling.is_greedy:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": float(sampling.temperature), "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}


def special_ids(model: torch.nn.Module, ends: Sequence[int]) -> dict[str, object]:
    """ends: the ids that end a text; without any, `generate` ends at the length alone.

    No padding id is set: the target's attention mask does not reach a draft model, which would take that id in a prompt for padding and
    not see it.
    """
    start = decoder_start(model) if model.config.is_encoder_decoder else None
    return {"eos_token_id": list(ends) or None, "bos_token_id": model.generation_config.bos_token_id, "decoder_start_token_id": start}


@contextmanager
def seeded(draws: Draws, device: torch.device) -> Iterator[None]:
    """Starts torch's own random numbers, from which the peers draw, from `draws` for a block, and restores them afterwards."""
    seed = int(draws.uniform(1).double().item() * 2**53)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the warning that transformers gives each time its assisted loop calls its draft model."""
    log = getLogger("transformers.generation.utils")
    log.addFilter(_of_ours)
    try:
        yield
    finally:
        log.removeFilter(_of_ours)


def _of_ours(record: LogRecord) -> bool:
    return not str(record.msg).startswith("Passing `generation_config` together with generation-related")


@dataclass(frozen=True)
class Drafted:
    """The draft of one round. ids: the candidates, () where there were none. seconds: host time that proposing them took."""

    ids: tuple[int, ...] = ()
    seconds: float = 0.0


def rounds(heard: Emissions, drafts: Sequence[Drafted]) -> Iterator[Round]:
    """One Round per emission; the last one is cut where the text ends."""
    starts = [0, *heard.ends[:-1]]
    for start, end, time, draft in zip(starts, heard.ends, heard.times, drafts, strict=False):
        tokens = tuple(heard.ids[start:end])
        path = range(_agreed(tokens, draft.ids))
        round_ = Round(tokens, draft.ids, chain_parents(len(draft.ids)), tuple(path), (), draft.seconds, None, emitted=time)
        yield round_ if end < len(heard.ids) else _last(round_, start, heard)


def _last(round_: Round, start: int, heard: Emissions) -> Round:
    return round_._replace(finish="length") if heard.cut is None else round_.cut(heard.cut.keep - start, heard.cut.finish)


def _agreed(tokens: Sequence[int], candidates: Sequence[int]) -> int:
    """How many candidates were accepted: a token that replaces a refused candidate always differs from it."""
    pairs = enumerate(zip(tokens, candidates, strict=False))
    return next((i for i, (token, candidate) in pairs if token != candidate), min(len(tokens), len(candidates)))


def _ids(source: int | list[int] | None) -> list[int]:
    return [] if source is None else [source] if isinstance(source, int) else list(source)


@dataclass
class SharedModel:
    """A model whose weights are ours and whose passes a peer makes. model: in eval mode. forwards, kv_bytes: the passes of the latest
    request, and its cache at its fullest.

    own: attributes that the peer has set on the model, kept here between requests.
    """

    model: torch.nn.Module
    forwards: int = field(default=0, init=False)
    kv_bytes: int = field(default=0, init=False)
    own: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def facts(self) -> Facts:
        """The facts of what the peer runs: it has a cache of its own, which drops nothing."""
        return Facts("its own", self.model.device, trees=False, cache_exact=True)

    def usage(self) -> Usage:
        return Usage(self.forwards, self.kv_bytes)

    def start(self) -> None:
        """Begins a new request."""
        self.forwards = self.kv_bytes = 0

    @contextmanager
    def lent(self, **attributes: object) -> Iterator[None]:
        """The model with `attributes` and those of earlier requests. Whatever the peer sets on it inside the block (its compiled call, its
        cache's size) is taken off again and kept for the next request, also when the request fails.
        """
        namespace, before = self.model.__dict__, dict(self.model.__dict__)
        namespace.update(self.own | attributes)
        try:
            yield
        finally:
            changed = {key: value for key, value in namespace.items() if key not in before or before[key] is not value}
            for key in changed:
                del namespace[key]
            namespace.update({key: before[key] for key in changed if key in before})
            self.own = {key: value for key, value in changed.items() if key not in attributes}


def shared_model(runner: ModelRunner | StatelessRunner) -> SharedModel:
    """The runner's model for a peer; the runner's cache is not used, as a peer brings its own. Raises UserError for a cache that changes
    the model, since no peer has such a cache.
    """
    if not runner.facts.cache_exact:
        raise UserError(f"cache={runner.facts.kind} changes the model, and no other engine knows such a cache; choose cache=full.")
    return SharedModel(runner.model)


class Emissions:
    """The tokens heard so far. opening: how many tokens the text begins with that are not an emission. times: `perf_counter` seconds of
    each emission.
    """

    def __init__(self, opening: int, stop: Stop):
        self.opening, self.stop = opening, stop
        self.ids: list[int] = []
        self.ends: list[int] = []  # len(ids) after each emission
        self.times: list[float] = []
        self.passes = 0  # of the target: one for each time that tokens came, even after the end of the text
        self.cut: Cut | None = None

    def hear(self, tokens: Sequence[int]) -> None:
        """Notes the tokens of one pass, at the present time."""
        self.passes += 1
        if self.cut is not None:  # transformers' deferred check asks late whether to end
            return
        self.times.append(perf_counter())
        since = len(self.ids)
        self.ids.extend(tokens)
        self.ends.append(len(self.ids))
        self.cut = self.stop(self.ids, since)


class Heard(StoppingCriteria):
    """Hears the plain loop, which asks its stopping criteria once after every token."""

    def __init__(self, emissions: Emissions):
        self.emissions = emissions

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> bool:
        """Whether the text [1, n] so far ends here. The signature is transformers'."""
        self.emissions.hear(input_ids[0, self.emissions.opening + len(self.emissions.ids) :].tolist())
        return self.emissions.cut is not None


class Streamed(BaseStreamer):
    """Hears the assisted loop: it may ask its stopping criteria about candidates too, but streams only what was accepted."""

    def __init__(self, emissions: Emissions):
        self.emissions = emissions
        self._begun = False

    def put(self, value: Tensor) -> None:
        """Takes the tokens [1, n]; the first call brings the prompt."""
        if self._begun:
            self.emissions.hear(value.view(-1).tolist())
        self._begun = True

    def end(self) -> None:
        """Does nothing, since no tokens are held back."""


class Ended(StoppingCriteria):
    """Tells the assisted loop that what was streamed has come to its end."""

    def __init__(self, emissions: Emissions):
        self.emissions = emissions

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> bool:
        return self.emissions.cut is not None
