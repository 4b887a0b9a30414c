"""transformers' assisted generation on the shared weights, as a decoder. In each round candidates from a draft model, from the text itself
(generate.py) or from the target's first layers (early_exit.py) are verified in one pass of the target.

The loop, the caches and the settings are transformers' own. As in generate.py the loop runs without interruption, and its rounds are given
to the experiment afterwards. The first emission already holds the first round's accepted candidates, because the draft runs before the
target has read the prompt. The settings of a draft model are put where transformers reads them, on the draft model's own generation
settings: given to the target's `generate` they would be ignored without a word. The draft model has these settings for the request, and
then its own again.

The loop is lossless as transformers claims. tests/peers/test_peers.py checks it: greedy texts token for token in float32; under sampling
the frequencies of whole short texts against the target's distribution, for draft model and prompt lookup. Where a text ends at an end id
in the middle of a block, transformers counts no further candidates of that block as accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from torch import Tensor
from transformers import GenerationConfig

from specexp.decoding.decoder import Round
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Draws
from specexp.errors import UserError
from specexp.peers import PeerLoop
from specexp.peers.onnx_conversion import refuse_before_it_works
from specexp.peers.request import Drafted, Emissions, Ended, Request, SharedModel, Streamed, rounds, special_ids
from specexp.runners.caches import held_bytes
from specexp.runners.lengths import slides


class Candidates(Protocol):
    """Where candidates come from: which settings and arguments make transformers' `generate` use this source."""

    models: Mapping[str, SharedModel]  # the models that draft, by name; at most one

    def settings(self) -> dict[str, object]:
        """Settings for the generation settings of the call."""

    def defaults(self) -> dict[str, object]:
        """Settings for the generation settings that the target itself has during the call."""

    def arguments(self) -> dict[str, object]:
        """Further arguments of the call."""

    def lent(self, ends: Sequence[int]) -> AbstractContextManager:
        """Gives the models that draft their settings for a block, and their own back at its end. ends: the ids that end a text."""


@dataclass
class AssistedGenerate(PeerLoop):
    """The decoder of method=hf_assisted, hf_prompt_lookup and hf_early_exit. Raises UserError for what the installed transformers cannot
    do, and for a draft model whose vocabulary has another size (padding counts), since transformers would then translate by way of text.
    """

    target: SharedModel
    drafter: Candidates

    def __post_init__(self) -> None:
        config = self.target.model.config
        refuse_before_it_works("assisted generation with an encoder-decoder model", config.is_encoder_decoder)
        refuse_before_it_works("assisted generation with a sliding window", slides(config))
        sizes = {model.model.config.get_text_config().vocab_size for model in (self.target, *self.drafter.models.values())}
        if len(sizes) > 1:
            raise UserError(
                "transformers' assisted generation wants one size of vocabulary, and these models have "
                f"{' and '.join(map(str, sorted(sizes)))}; choose another draft, or method=speculative."
            )

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Round]:
        """Gives all rounds after the last has been emitted, each with its candidates and how many of them were accepted."""
        request = Request(self.target, prompt, max_new_tokens, stop, draws)
        heard, watch = request.emissions(), Watch()
        hooks = {"streamer": Streamed(heard), "stopping_criteria": [Ended(heard)]}
        made = watch.over(self.target.model._get_candidate_generator)
        own = {"generation_config": request.settings(**self.drafter.defaults()), "_get_candidate_generator": made}
        with self.drafter.lent(request.ends):
            output = request.run(request.settings(**self.drafter.settings()), own, **hooks, **self.drafter.arguments())
        drafts = watch.drafts()
        self._count(heard, drafts, output.past_key_values, watch.cache)
        yield from rounds(heard, drafts)

    def _count(self, heard: Emissions, drafts: Sequence[Drafted], cache: object, draft_cache: object | None) -> None:
        """Counts the passes, and the bytes of the caches at their fullest: the target's cache holds the text and all candidates, the
        draft's all but the last of them.
        """
        widths = [len(draft.ids) for draft in drafts]
        longest = max(heard.opening + before + width for before, width in zip([0, *heard.ends], widths, strict=False))
        self.target.forwards = heard.passes
        self.target.kv_bytes = held_bytes(cache, longest)
        for model in self.drafter.models.values():
            model.forwards = sum(widths)
            model.kv_bytes = 0 if draft_cache is None else held_bytes(draft_cache, longest - 1)


class Watch:
    """Watches transformers' candidate generator: what it proposes, and how long that takes. It costs two readings of the clock and a view
    of a tensor per round.
    """

    def __init__(self) -> None:
        self._generator: object | None = None
        self._candidates: list[Tensor] = []
        self._seconds: list[float] = []

    def over(self, make: Callable) -> Callable:
        """Wraps `make`, the model's own function that makes candidate generators, so that the generator it makes is watched."""

        def watched(*args: object, **kwargs: object) -> object:
            self._generator = make(*args, **kwargs)
            self._generator.get_candidates = self._timed(self._generator.get_candidates)
            return self._generator

        return watched

    def _timed(self, get_candidates: Callable) -> Callable:
        def timed(input_ids: Tensor, **kwargs: object) -> tuple[Tensor, Tensor | None]:
            began = perf_counter()
            candidates, logits = get_candidates(input_ids, **kwargs)
            self._seconds.append(perf_counter() - began)
            self._candidates.append(candidates[0, input_ids.shape[1] :])
            return candidates, logits

        return timed

    def drafts(self) -> list[Drafted]:
        """The candidates of all rounds; they are copied to the host only here."""
        pairs = zip(self._candidates, self._seconds, strict=True)
        return [Drafted(tuple(candidates.tolist()), seconds) for candidates, seconds in pairs]

    @property
    def cache(self) -> object | None:
        """The draft model's cache; None where no draft model ran."""
        return getattr(self._generator, "assistant_kwargs", {}).get("past_key_values")


SCHEDULES = ("constant", "heuristic", "heuristic_transient")


@dataclass(frozen=True)
class AssistantKnobs:
    """The draft model's settings. gamma: `num_assistant_tokens`, how many tokens are drafted per round, or at first. schedule:
    `num_assistant_tokens_schedule`; with "heuristic" the next request begins with the length that the last one ended with, as in
    transformers itself. confidence_threshold: `assistant_confidence_threshold`; a token below this probability is the last one drafted, 0
    switches this off. Where scikit-learn is installed, transformers adapts the threshold during a request.
    """

    gamma: int = 20
    schedule: str = "constant"
    confidence_threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise ValueError(f"gamma={self.gamma} drafts nothing; give 1 or more, or choose method=hf_generate.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule} is unknown to transformers; give one of {', '.join(SCHEDULES)}.")
        if not 0 <= self.confidence_threshold < 1:
            raise ValueError(f"confidence_threshold={self.confidence_threshold} is no probability below 1; give 0 for none.")

    def settings(self) -> dict[str, object]:
        """The settings by transformers' names."""
        return {
            "num_assistant_tokens": self.gamma,
            "num_assistant_tokens_schedule": self.schedule,
            "assistant_confidence_threshold": self.confidence_threshold,
        }


@dataclass
class Assistant:
    """Candidates from a draft model, which drafts several tokens per round with a cache of its own."""

    model: SharedModel
    knobs: AssistantKnobs = field(default_factory=AssistantKnobs)
    _gamma: int | None = field(default=None, init=False, repr=False)  # the draft length that the last request ended with

    @property
    def models(self) -> dict[str, SharedModel]:
        return {"draft": self.model}

    def settings(self) -> dict[str, object]:
        return {}

    def defaults(self) -> dict[str, object]:
        return {}

    def arguments(self) -> dict[str, object]:
        return {"assistant_model": self.model.model}

    @contextmanager
    def lent(self, ends: Sequence[int]) -> Iterator[None]:
        settings = GenerationConfig(**special_ids(self.model.model, ends), **self.knobs.settings())
        settings.num_assistant_tokens = self._gamma or self.knobs.gamma
        with self.model.lent(generation_config=settings):
            yield
        self._gamma = settings.num_assistant_tokens  # transformers writes it there with schedule="heuristic"
