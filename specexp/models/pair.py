"""A target and its draft: what must hold between the two, checked before any weights are loaded, and the runners built on them.

Knows nothing of methods. Promises the same tokenizer, or refuses.

How many ids a pair has: those its tokenizer knows and those its logits have rows for. Tables are checked against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

from specexp.errors import UserError
from specexp.models.spec import ModelSpec


@dataclass(frozen=True)
class ModelPair:
    """name: for records. tokenizer: one for all, unchecked, or None. dtype: the default of all models (the top-level key reads it).

    drafts: several draft models by name, biggest first, for methods that cascade; where there are none, `draft` is the only one.
    tables: the name of the pair's n-gram tables (of its tokenizer, so pairs may share them).
    medusa: where heads on the target for method=medusa are: a directory, a Hub id, asset:NAME.
    data: files that experiments read instead of data sets from the Hub, where the pair is too small for those; nothing here reads them.
    weights: real, or standin for models of these shapes that compute what the tiny pair computes (`ModelSpec` says so of each).
    costs: named tables of what a pass of each model costs ("target" and the drafts' names), in any unit: for cost metrics.
    """

    name: str
    target: ModelSpec
    draft: ModelSpec | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    drafts: Mapping[str, ModelSpec] = field(default_factory=dict)
    tables: str | None = None
    medusa: str | None = None
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    weights: str = "real"
    data: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if odd := [spec.name for _, spec in self._models() if spec.weights != self.weights]:
            raise UserError(f"{odd[0]} does not go with weights={self.weights}: set model_pair.weights, for all models of the pair.")

    @property
    def all_drafts(self) -> dict[str, ModelSpec]:
        """By name, biggest first."""
        return dict(self.drafts) if self.drafts else {} if self.draft is None else {"draft": self.draft}

    def check(self) -> None:
        """Every model can be had, and the one device for both exists: seconds, no weights. Raises UserError."""
        from specexp.models.loading import resolved
        from specexp.models.preflight import preflight, preflight_tokenizer

        devices = {}
        for key, spec in self._models():
            preflight(spec, key)
            devices[key] = resolved(spec, key).device
        if len(set(devices.values())) > 1:
            told = " and ".join(f"{key}.device={device}" for key, device in devices.items())
            raise UserError(f"{told} differ: target and draft exchange tokens every round; give all of them one device (device=cpu).")
        if self.tokenizer is not None and self.weights == "real":
            preflight_tokenizer(self.tokenizer)
        self._check_families()

    def _check_families(self) -> None:
        """Every model is of a kind that runs, and all are of one kind."""
        from specexp.models.loading import check_family, load_config

        kinds: dict[bool, str] = {}
        for key, spec in self._models():
            config = load_config(spec, key)
            check_family(config, spec.name)
            kinds.setdefault(config.is_encoder_decoder, spec.name)
        if len(kinds) > 1:
            raise UserError(
                f"{kinds[True]} is an encoder-decoder model and {kinds[False]} is decoder-only, so neither can draft for the other: "
                "choose two of one kind."
            )

    def load_tokenizer(self):
        """The tokenizer both models share; stand-ins have that of what they are grown from. Raises UserError when they do not."""
        from specexp.models.tokenizer import check_same_tokenizer, load_tokenizer

        if self.tokenizer is not None and self.weights == "real":
            return load_tokenizer(self.tokenizer)
        files = [(key, spec.files) for key, spec in self._models()]
        loaded = [load_tokenizer(s.name, s.revision, s.trust_remote_code, key=f"{key}.name") for key, s in files]
        for (_, spec), tokenizer in zip(self._models()[1:], loaded[1:], strict=True):
            check_same_tokenizer(loaded[0], tokenizer, names=(self.target.name, spec.name))
        return loaded[0]

    def longest_text(self, cache: partial) -> int | None:
        """Tokens that a text may have with every model of the pair; None where there is no limit. No weights.

        cache: a runner class with its settings. UserError where that cache does not fit one of the models.
        """
        from specexp.models.loading import load_config

        lengths = [cache.func.longest_text(load_config(spec, key), spec.name, **cache.keywords) for key, spec in self._models()]
        return min((length for length in lengths if length is not None), default=None)

    def _models(self) -> list[tuple[str, ModelSpec]]:
        models = [("model_pair.target", self.target)]
        models += [] if self.draft is None else [("model_pair.draft", self.draft)]
        return models + [(f"model_pair.drafts.{name}", spec) for name, spec in self.drafts.items()]


def runner(model: ModelSpec, target: ModelSpec, cache: Callable):
    """A runner over `model`'s shared weights with a cache of its own; logits as wide as the target's vocabulary."""
    from specexp.models.loading import load_model

    key = "model_pair.target" if model == target else "model_pair.draft"
    vocab_size = output_rows(load_model(target))
    return cache(load_model(model, key), vocab_size=vocab_size)


def draft_runners(pair: ModelPair, cache: Callable) -> dict:
    """A runner for each of the pair's draft models, by name."""
    from specexp.models.loading import load_model

    rows = output_rows(load_model(pair.target))
    keys = {spec: key for key, spec in pair._models()}
    return {name: cache(load_model(spec, keys[spec]), vocab_size=rows) for name, spec in pair.all_drafts.items()}


def output_rows(model) -> int:
    """Rows of the output projection: the width of the logits, padding included."""
    head = model.get_output_embeddings()
    return model.config.get_text_config().vocab_size if head is None else head.weight.shape[0]


@dataclass(frozen=True)
class Vocabulary:
    """Both are read when they are asked for: `entries` loads the tokenizer, `rows` the target's weights."""

    pair: ModelPair

    @cached_property
    def entries(self) -> int:
        """The largest id of the tokenizer, plus one."""
        return entries(self.pair.load_tokenizer())

    @cached_property
    def rows(self) -> int:
        """V of the target's logits, padding included."""
        from specexp.models.loading import load_model

        return output_rows(load_model(self.pair.target))


def entries(tokenizer) -> int:
    return max(tokenizer.get_vocab().values()) + 1
