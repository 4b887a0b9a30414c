"""A pair is a target and its draft models. This module checks what must hold between them before any weights are loaded, and builds the
runners.

A pair shares one tokenizer or is refused. Its number of ids is known in two ways, which differ by padding: the ids of the tokenizer and
the rows of the logits; n-gram tables are checked against them. The last part loads tokenizers, compares two of them, and collects the ids
that end a text. This module knows nothing of methods, decoding and chat templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial

from specexp.errors import UserError
from specexp.models import loading, preflight
from specexp.models.preflight import locate, offline_where_possible
from specexp.models.spec import ModelSpec
from specexp.runners.lengths import extended_length, switch_length


@dataclass(frozen=True)
class ModelPair:
    """A target with its draft, or with several drafts. name: the pair's name in records; None for the target's. tokenizer: one tokenizer
    for all models, which is not compared with theirs; None for each model's own. dtype: the default of all models (the configuration's
    top-level key reads it).

    drafts: several draft models by name, biggest first, for methods that use more than one; where there are none, `draft` is the only one.
    tables: the name of the pair's n-gram tables; they belong to its tokenizer, so pairs may share them. medusa: where Medusa heads for the
    target are: a directory, a Hub id, or asset:NAME. weights: real, or standin for models of these shapes that compute what the tiny pair
    computes (`ModelSpec` explains it). costs: named tables of what a pass of each model ("target" and the drafts' names) costs, in any
    unit, for cost metrics.

    This class does not read the last two: data, files that experiments read instead of data sets from the Hub, for pairs too small for
    those, and prompt_format, how data sets ask unless they say otherwise themselves.
    """

    name: str | None
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
    prompt_format: str = "raw"

    def __post_init__(self) -> None:
        if odd := [spec.name for _, spec in self._models() if spec.weights != self.weights]:
            raise UserError(f"{odd[0]} does not go with weights={self.weights}: set model_pair.weights, for all models of the pair.")

    @property
    def all_drafts(self) -> dict[str, ModelSpec]:
        """The draft models by name, biggest first."""
        return dict(self.drafts) if self.drafts else {} if self.draft is None else {"draft": self.draft}

    def check(self) -> None:
        """Raises UserError unless every model can be had and all are on one device that exists. It takes seconds and loads no weights."""
        devices = {}
        for key, spec in self._models():
            if spec.quantization != "none" and not spec.is_standin:
                loading.resolved(spec, key)  # it needs a device of its own, before the packages that it needs there
            preflight.preflight(spec, key)
            devices[key] = loading.resolved(spec, key).device
        if len(set(devices.values())) > 1:
            told = " and ".join(f"{key}.device={device}" for key, device in devices.items())
            raise UserError(f"{told} differ: target and draft exchange tokens every round; give all of them one device (device=cpu).")
        if self.tokenizer is not None and self.weights == "real":
            preflight.preflight_tokenizer(self.tokenizer)
        self._check_families()

    def release_others(self) -> None:
        """Give up the weights and tokenizers of other pairs, which a sweep's earlier jobs have loaded. What other methods of this pair have
        loaded stays: another job may want the draft again."""
        if loading.keep_only(dict(self._models())):
            forget_tokenizers()

    def _check_families(self) -> None:
        """Raises UserError unless every model is of a kind that runs here, and all are of one kind."""
        kinds: dict[bool, str] = {}
        for key, spec in self._models():
            config = loading.load_config(spec, key)
            loading.check_family(config, spec.name)
            kinds.setdefault(config.is_encoder_decoder, spec.name)
        if len(kinds) > 1:
            raise UserError(
                f"{kinds[True]} is an encoder-decoder model and {kinds[False]} is decoder-only, so neither can draft for the other: "
                "choose two of one kind."
            )

    def load_tokenizer(self):
        """Loads the tokenizer that all models share; a stand-in has the tokenizer of the model it is grown from. Raises UserError where
        they differ.
        """

        if self.tokenizer is not None and self.weights == "real":
            return load_tokenizer(self.tokenizer)
        loaded = [_own_tokenizer(spec.files, key) for key, spec in self._models()]
        for (_, spec), tokenizer in zip(self._models()[1:], loaded[1:], strict=True):
            check_same_tokenizer(loaded[0], tokenizer, names=(self.target.name, spec.name))
        return loaded[0]

    def longest_text(self, cache: partial) -> int | None:
        """How many tokens a text may have with every model of the pair; None where there is no limit. Loads no weights.

        cache: a runner class with its settings. Raises UserError where that cache does not fit one of the models.
        """
        lengths = [_longest(spec, key, cache) for key, spec in self._models()]
        return min((length for length in lengths if length is not None), default=None)

    def embedded_ids(self) -> dict[str, int]:
        """How many ids the target reads, by its name, as its configuration says. A draft may read fewer: it guesses badly then."""
        config = loading.load_config(self.target)
        return {self.target.name: config.get_text_config(decoder=True).vocab_size}

    def switches(self) -> dict[int, str]:
        """The lengths that no text may cross while it is written, each with the model that is to blame (`switch_length` says why)."""
        lengths = {spec.name: switch_length(loading.load_config(spec, key)) for key, spec in self._models()}
        return {length: name for name, length in lengths.items() if length is not None}

    def _models(self) -> list[tuple[str, ModelSpec]]:
        models = [("model_pair.target", self.target)]
        models += [] if self.draft is None else [("model_pair.draft", self.draft)]
        return models + [(f"model_pair.drafts.{name}", spec) for name, spec in self.drafts.items()]


def _longest(spec: ModelSpec, key: str, cache: partial) -> int | None:
    config = loading.load_config(spec, key)
    longest = cache.func.longest_text(config, spec.name, **cache.keywords)
    if longest is None or spec.context_length is None:
        return longest
    if reason := extended_length(config, spec.context_length):
        raise UserError(f"{key}.context_length={spec.context_length} is too much for {spec.name}: {reason}; give a smaller number.")
    return spec.context_length


def runner(model: ModelSpec, target: ModelSpec, cache: Callable):
    """A runner over `model`'s shared weights with a cache of its own, whose logits are as wide as the target's vocabulary."""
    key = "model_pair.target" if model == target else "model_pair.draft"
    vocab_size = output_rows(loading.load_model(target))
    return cache(loading.load_model(model, key), vocab_size=vocab_size)


def draft_runners(pair: ModelPair, cache: Callable) -> dict:
    """A runner for each draft model of the pair, by name."""
    rows = output_rows(loading.load_model(pair.target))
    keys = {spec: key for key, spec in pair._models()}
    return {name: cache(loading.load_model(spec, keys[spec]), vocab_size=rows) for name, spec in pair.all_drafts.items()}


def output_rows(model) -> int:
    """How many rows the output projection has, which is the width of the logits, padding included."""
    head = model.get_output_embeddings()
    return model.config.get_text_config().vocab_size if head is None else head.weight.shape[0]


@dataclass(frozen=True)
class Vocabulary:
    """The pair's numbers of ids, read when they are asked for: `entries` loads the tokenizer, `rows` the target's weights."""

    pair: ModelPair

    @cached_property
    def entries(self) -> int:
        """The largest id of the tokenizer, plus one."""
        return entries(self.pair.load_tokenizer())

    @cached_property
    def rows(self) -> int:
        """The width V of the target's logits, padding included."""
        return output_rows(loading.load_model(self.pair.target))


def entries(tokenizer) -> int:
    return max(tokenizer.get_vocab().values()) + 1


def _own_tokenizer(spec: ModelSpec, key: str):
    """The tokenizer that lies beside a model's weights: an adapter's may be that of its base model, and a .gguf file has one inside."""
    there = preflight.has_tokenizer(spec.name, spec.revision, key)
    if not there and (base := preflight.base_of(spec, key)) is not None:
        return _own_tokenizer(base, key)
    if not there and spec.gguf_file is not None:
        return _load(locate(spec.name, key), spec.revision, spec.trust_remote_code, spec.gguf_file)
    return load_tokenizer(spec.name, spec.revision, spec.trust_remote_code, key=f"{key}.name")


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False, key: str = "model_pair.tokenizer"):
    """Loads the transformers tokenizer of a directory, Hub id or asset, once. Raises UserError if it cannot be had."""
    preflight.preflight_tokenizer(name, revision, key)
    return _load(locate(name, key), revision, trust_remote_code)


@lru_cache(maxsize=8)
def _load(place: str, revision: str | None, trust_remote_code: bool, gguf_file: str | None = None):
    from transformers import AutoTokenizer

    inside = {} if gguf_file is None else {"gguf_file": gguf_file}
    with loading.explained(f"the tokenizer of {place}"), offline_where_possible(place, trust_remote_code):
        return AutoTokenizer.from_pretrained(place, revision=revision or "main", trust_remote_code=trust_remote_code, **inside)


def forget_tokenizers() -> None:
    """Gives up the tokenizers loaded so far."""
    _load.cache_clear()


def check_same_tokenizer(target, draft, names: tuple[str, str]) -> None:
    """Raises UserError unless every id stands for the same token in both. `names`: the target's and the draft's name, for the message.

    It compares what the tokenizers know, added tokens included, and not how many (padded) rows the models have. A padding token that only
    one of them has is allowed, because no text contains it.
    """
    ours, theirs = _entries(target, draft), _entries(draft, target)
    if ours == theirs:
        return
    odd = min(ours.items() ^ theirs.items(), key=lambda entry: entry[1])
    raise UserError(
        f"{names[1]} cannot draft for {names[0]}: their tokenizers differ ({len(theirs)} and {len(ours)} entries, first at id {odd[1]}, "
        f"{odd[0]!r}); choose a draft of the target's family, or set model_pair.tokenizer=NAME if you know that their ids mean the same."
    )


def _entries(tokenizer, other) -> dict[str, int]:
    vocabulary = dict(tokenizer.get_vocab())
    roles = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    if tokenizer.pad_token not in roles and tokenizer.pad_token not in other.get_vocab():
        vocabulary.pop(tokenizer.pad_token, None)
    return vocabulary


def stop_ids(model, tokenizer) -> tuple[int, ...]:
    """Every id that ends a text, ascending: from the generation settings (chat models have several), the configuration and the tokenizer.

    The padding id of an encoder-decoder model ends its text too: T5 pads what it has finished, and the id has no other use.
    """
    sources = [getattr(model.generation_config, "eos_token_id", None), getattr(model.config, "eos_token_id", None), tokenizer.eos_token_id]
    if model.config.is_encoder_decoder:
        sources.append(model.config.pad_token_id)
    return tuple(sorted({token for source in sources for token in _ids(source) if token >= 0}))


def _ids(source: int | list[int] | None) -> list[int]:
    if source is None:
        return []
    return [source] if isinstance(source, int) else list(source)
