"""transformers' assisted generation on the shared weights, as a decoder: candidates from a draft model, the text itself or the target's
first layers (assistant.py, prompt_lookup.py, early_exit.py), verified in one pass of the target per round.

Its own loop, caches and settings; as in transformers_generate.py it runs undisturbed and its rounds are handed out afterwards. The first
emission holds the first round's accepted candidates too: the draft runs before the target has read the prompt.

Lossless as transformers claims it. Checked by us (test_peers.py): greedy, token for token in float32; under sampling the frequencies
of whole short texts against the target's law, for draft model and prompt lookup. A text ends in the middle of a block at an end id, where
transformers counts no further candidates as accepted.

A draft model for transformers' assisted generation, with its knobs where they are read: on the draft model's own generation settings.

Given to the target's `generate` they would be ignored without a word. The draft model gets settings made for it, and its own back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from torch import Tensor
from transformers import GenerationConfig

from specexp.decoding.decoder import Step
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Draws
from specexp.errors import UserError
from specexp.peers import PeerLoop
from specexp.peers.onnx_conversion import refuse_before_it_works
from specexp.peers.request import Drafted, Emissions, Ended, Request, SharedModel, Streamed, rounds, special_ids
from specexp.runners.caches import held_bytes
from specexp.runners.calls import slides


class Candidates(Protocol):
    """Where candidates come from: which of `generate`'s settings and arguments say so."""

    models: Mapping[str, SharedModel]  # that draft, by name; at most one

    def settings(self) -> dict[str, object]:
        """Of the call's generation settings."""

    def defaults(self) -> dict[str, object]:
        """Of those that the target itself has meanwhile."""

    def arguments(self) -> dict[str, object]:
        """For the call."""

    def lent(self, ends: Sequence[int]) -> AbstractContextManager:
        """The models that draft with settings of their own, everything restored at the end. ends: the ids that end a text."""


@dataclass
class AssistedGenerate(PeerLoop):
    """method=hf_assisted, hf_prompt_lookup, hf_early_exit. UserError for a draft model whose vocabulary has another size (padding counts):
    transformers would go by way of text there. And for what the installed transformers cannot do."""

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

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Step]:
        """All rounds once the last has been emitted. In each, the candidates and how many of them were accepted."""
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
        """Passes and the caches at their fullest: the target's holds the text and all candidates, the draft's all but the last of them."""
        widths = [len(draft.ids) for draft in drafts]
        longest = max(heard.opening + before + width for before, width in zip([0, *heard.ends], widths, strict=False))
        self.target.forwards = heard.passes
        self.target.kv_bytes = held_bytes(cache, longest)
        for model in self.drafter.models.values():
            model.forwards = sum(widths)
            model.kv_bytes = 0 if draft_cache is None else held_bytes(draft_cache, longest - 1)


class Watch:
    """Looks on as transformers' candidate generator proposes: what and how long it took. Costs two clock readings and a view per round."""

    def __init__(self) -> None:
        self._generator: object | None = None
        self._candidates: list[Tensor] = []
        self._seconds: list[float] = []

    def over(self, make: Callable) -> Callable:
        """`make` (the model's own maker of candidate generators), its product watched."""

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
        """Of all rounds; only here do the candidates come to the host."""
        pairs = zip(self._candidates, self._seconds, strict=True)
        return [Drafted(tuple(candidates.tolist()), seconds) for candidates, seconds in pairs]

    @property
    def cache(self) -> object | None:
        """The draft model's; None where none ran."""
        return getattr(self._generator, "assistant_kwargs", {}).get("past_key_values")


SCHEDULES = ("constant", "heuristic", "heuristic_transient")


@dataclass(frozen=True)
class AssistantKnobs:
    """gamma: `num_assistant_tokens`, drafted per round, or at first. schedule: `num_assistant_tokens_schedule`; with "heuristic" the next
    request begins with the length that the last one ended with, as with transformers itself.
    confidence_threshold: `assistant_confidence_threshold`, the probability below which a token is the last one drafted; 0: none is.
    Where scikit-learn is installed, transformers adapts it during a request.
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
        """By transformers' names."""
        return {
            "num_assistant_tokens": self.gamma,
            "num_assistant_tokens_schedule": self.schedule,
            "assistant_confidence_threshold": self.confidence_threshold,
        }


@dataclass
class Assistant:
    """model: drafts, several tokens per round, with a cache of its own."""

    model: SharedModel
    knobs: AssistantKnobs = field(default_factory=AssistantKnobs)
    _gamma: int | None = field(default=None, init=False, repr=False)  # where the last request left it

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
        self._gamma = settings.num_assistant_tokens  # "heuristic" writes it there
