"""One request to transformers' `generate`: settings made from ours alone, so that no default of a checkpoint or of the library leaks in,
the model lent for as long as it takes, and what was heard told as the rounds of a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from logging import LogRecord, getLogger

import torch
from transformers import GenerationConfig

from specexp.decoding.chance import Chance
from specexp.decoding.decoder import Step
from specexp.decoding.draft import chain_parents
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Sampling
from specexp.models.encoder_decoder import decoder_start
from specexp.peers.emissions import Emissions
from specexp.peers.shared_model import SharedModel


@dataclass(frozen=True)
class Request:
    """What the experiment asks for. Arguments as of `Decoder.generate`."""

    target: SharedModel
    sampling: Sampling
    prompt: Sequence[int]
    max_new_tokens: int
    stop: Stop
    chance: Chance

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Those of the model's own end-of-text ids at which `stop` ends a text: none where it ignores them."""
        model = self.target.model
        ids = {*_ids(model.generation_config.eos_token_id), *_ids(model.config.get_text_config().eos_token_id)}
        return tuple(id for id in sorted(ids) if (cut := self.stop((id,), 0)) is not None and cut.finish == "eos")

    def emissions(self) -> Emissions:
        return Emissions(1 if self.target.model.config.is_encoder_decoder else len(self.prompt), self.stop)

    def settings(self, **values: object) -> GenerationConfig:
        """Ours, for the target, and `values`."""
        own = sampling_settings(self.sampling) | special_ids(self.target.model, self.ends)
        return GenerationConfig(max_new_tokens=self.max_new_tokens, return_dict_in_generate=True, **own, **values)

    def run(self, settings: GenerationConfig, attributes: dict[str, object] | None = None, **arguments: object) -> object:
        """generate's output. attributes: what the model has meanwhile; settings of its own among them, bare ones if there are none, as
        what is None in `settings` is looked up there (an EOS that is to be ignored, too)."""
        ids = torch.tensor([list(self.prompt)], device=self.target.device)
        luck = nullcontext() if self.sampling.is_greedy else seeded(self.chance, self.target.device)
        with luck, quiet(), self.target.lent(**({"generation_config": self.settings()} | (attributes or {}))):
            return self.target.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings, **arguments)


def sampling_settings(sampling: Sampling) -> dict[str, object]:
    """Every number written out: what is left None the library fills in (top_k with 50)."""
    if sampling.is_greedy:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": float(sampling.temperature), "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}


def special_ids(model: torch.nn.Module, ends: Sequence[int]) -> dict[str, object]:
    """ends: the ids that end a text; with none of them `generate` knows no end but the length.

    No padding: the target's attention mask does not reach a draft model, which would take that id in a prompt for padding and not see it.
    """
    start = decoder_start(model) if model.config.is_encoder_decoder else None
    return {"eos_token_id": list(ends) or None, "bos_token_id": model.generation_config.bos_token_id, "decoder_start_token_id": start}


@contextmanager
def seeded(chance: Chance, device: torch.device) -> Iterator[None]:
    """torch's own randomness, which the peers draw from, begun from `chance`, and afterwards as it was."""
    seed = int(chance.uniform(1).double().item() * 2**53)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that transformers gives itself each time that its assisted loop calls its draft model."""
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
    """Of one round. ids: candidates, () where there were none. seconds: host time in what proposed them."""

    ids: tuple[int, ...] = ()
    seconds: float = 0.0


def rounds(heard: Emissions, drafts: Sequence[Drafted]) -> Iterator[Step]:
    """One Step per emission, the last one cut where the text ends."""
    starts = [0, *heard.ends[:-1]]
    for start, end, time, draft in zip(starts, heard.ends, heard.times, drafts, strict=False):
        tokens = tuple(heard.ids[start:end])
        path = range(_agreed(tokens, draft.ids))
        step = Step(tokens, draft.ids, chain_parents(len(draft.ids)), tuple(path), (), draft.seconds, None, emitted=time)
        yield step if end < len(heard.ids) else _last(step, start, heard)


def _last(step: Step, start: int, heard: Emissions) -> Step:
    return step._replace(finish="length") if heard.cut is None else step.cut(heard.cut.keep - start, heard.cut.finish)


def _agreed(tokens: Sequence[int], candidates: Sequence[int]) -> int:
    """Candidates accepted: a token that stands for a refused one is never the same."""
    pairs = enumerate(zip(tokens, candidates, strict=False))
    return next((i for i, (token, candidate) in pairs if token != candidate), min(len(tokens), len(candidates)))


def _ids(source: int | list[int] | None) -> list[int]:
    return [] if source is None else [source] if isinstance(source, int) else list(source)
