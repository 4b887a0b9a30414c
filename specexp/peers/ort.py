"""onnxruntime-genai's own decoding of the same weights, as a decoder: one token per pass, with a draft model, or with n-grams of the text.

The engine is written in C++; its graphs are converted once by its own builder (onnx_conversion.py), and its caches are its own. Rounds are
given to the experiment as they end. It is compared greedily and in float32 on the CPU, where the text is that of our autoregressive
decoding, token for token (tests/peers/test_ort.py); anything else is refused. The engine does not say which drafted ids were refused, so
steps hold only how many were drafted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from specexp.decoding.decoder import Round
from specexp.decoding.draft import chain_parents
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Draws
from specexp.errors import UserError
from specexp.peers import GreedyLoop
from specexp.peers.request import SharedModel

WIDEST = 16  # the engine's own limits
LONGEST = 16


class OrtDrafter(Protocol):
    """What drafts for the engine, if anything does."""

    models: Mapping[str, SharedModel]  # the models that draft, by name; at most one

    def options(self) -> dict[str, int]:
        """The options by the engine's names."""


@dataclass(frozen=True)
class Alone:
    """No draft: the target decodes one token per pass."""

    models: ClassVar[Mapping[str, SharedModel]] = {}

    def options(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True)
class Width:
    """gamma: `max_draft_tokens`, how many tokens are drafted per round; fewer only where the text ends."""

    gamma: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.gamma <= WIDEST:
            raise ValueError(f"gamma={self.gamma} is not what onnxruntime-genai drafts; give 1 to {WIDEST}, or choose method=ort_generate.")


@dataclass(frozen=True)
class DraftModel:
    """A draft model that drafts a constant number of tokens."""

    model: SharedModel
    width: Width = field(default_factory=Width)

    @property
    def models(self) -> dict[str, SharedModel]:
        return {"draft": self.model}

    def options(self) -> dict[str, int]:
        return {"max_draft_tokens": self.width.gamma}


@dataclass(frozen=True)
class NgramLookup:
    """Candidates are the tokens that followed the last place where the text's latest tokens occurred before. ngram: `ngram_size`, one more
    than the number of tokens looked up.
    """

    width: Width = field(default_factory=Width)
    ngram: int = 3
    models: ClassVar[Mapping[str, SharedModel]] = {}

    def __post_init__(self) -> None:
        if not 2 <= self.ngram <= LONGEST:
            raise ValueError(f"ngram={self.ngram} is not what onnxruntime-genai looks up; give 2 to {LONGEST}.")

    def options(self) -> dict[str, int]:
        return {"ngram_size": self.ngram, "max_draft_tokens": self.width.gamma}


@dataclass(frozen=True)
class OrtSettings:
    """directory: where converted models are kept; None: `specexp/onnxruntime-genai` in the user's cache directory.

    Raises UserError where the packages are not installed.
    """

    directory: str | None = None

    def __post_init__(self) -> None:
        if (package := missing()) is not None:
            raise UserError(
                f"onnxruntime-genai needs {package}, which is not installed: pip install 'specexp[peers]' (in a checkout: '.[peers]')."
            )


def missing() -> str | None:
    """The first package, of those that the engine and its builder need, that is not installed; None where all are."""
    return next((package for package in ("onnxruntime_genai", "onnx", "onnx_ir") if find_spec(package) is None), None)


@dataclass
class OrtGenerate(GreedyLoop):
    """The decoder of method=ort, ort_generate and ort_prompt_lookup. Raises UserError for models that the engine cannot run, or that
    cannot be compared fairly.

    It uses as many threads as torch has when it is built.
    """

    target: SharedModel
    settings: OrtSettings
    drafter: OrtDrafter = field(default_factory=Alone)

    def __post_init__(self) -> None:
        from specexp.peers.onnx_conversion import converted, default_directory
        from specexp.peers.onnx_session import session

        _check([self.target, *self.drafter.models.values()])
        directory = default_directory() if self.settings.directory is None else Path(self.settings.directory)
        self._converted = {name: converted(model, directory) for name, model in {"target": self.target, **self.drafter.models}.items()}
        self._session = session(self._converted["target"], self._converted.get("draft"), torch.get_num_threads())

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Round]:
        """Gives the engine's rounds, each as it ends; the first includes the prefill and what was drafted after it."""
        generated: list[int] = []
        self._count_prefill()
        for done in self._session.rounds(prompt, max_new_tokens, self.drafter.options()):
            since, drafted = len(generated), done.drafted or 0
            generated.extend(done.tokens)
            self._count(done.target_passes, done.draft_passes, len(prompt) + since + drafted)
            path, times = tuple(range(done.accepted)), (done.draft_seconds, done.target_seconds)
            round_ = Round(done.tokens, (), chain_parents(drafted), path, (), *times, None, emitted=done.time)
            if (cut := stop(generated, since)) is not None:
                yield round_.cut(cut.keep - since, cut.finish)
                return
            yield round_ if len(generated) < max_new_tokens else round_._replace(finish="length")

    def close(self) -> None:
        """Gives up the engine's sessions, all of them, since a run's sides end together."""
        from specexp.peers.onnx_session import session

        session.cache_clear()

    def _count_prefill(self) -> None:
        for model in (self.target, *self.drafter.models.values()):
            model.start()
            model.forwards = 1

    def _count(self, target_passes: int, draft_passes: int, longest: int) -> None:
        """longest: how many positions there are after this round's pass; the draft never reads its last guess."""
        self.target.forwards += target_passes
        self.target.kv_bytes = max(self.target.kv_bytes, longest * self._converted["target"].bytes_per_slot)
        for name, model in self.drafter.models.items():
            model.forwards += draft_passes
            model.kv_bytes = max(model.kv_bytes, (longest - 1) * self._converted[name].bytes_per_slot)


def _check(models: Sequence[SharedModel]) -> None:
    configs = [shared.model.config for shared in models]
    for shared, config in zip(models, configs, strict=True):
        if config.is_encoder_decoder:
            raise UserError(
                f"onnxruntime-genai speculates with decoder-only models, and {config.model_type} is none; "
                "choose another pair, or method=hf_assisted."
            )
        if shared.device.type != "cpu" or shared.model.dtype != torch.float32:
            kind = f"{str(shared.model.dtype).removeprefix('torch.')} on {shared.device.type}"
            raise UserError(f"onnxruntime-genai is compared in float32 on the CPU, and the model is {kind}; give dtype=float32 device=cpu.")
    sizes = {config.get_text_config().vocab_size for config in configs}
    if len(sizes) > 1:
        raise UserError(
            f"onnxruntime-genai wants one size of vocabulary, and these models have {' and '.join(map(str, sorted(sizes)))}; "
            "choose another draft, or method=speculative."
        )
