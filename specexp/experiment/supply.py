"""From a method's node of the configuration to what decodes: which models its function asks for, and the function called with them. Also
what a job has checked and read before any weights are loaded: the data set, its examples, and the methods tried out without models.

What a function asks for is read from its signature (specexp/methods.py says which names those are). This module knows no method.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name

from omegaconf import DictConfig, OmegaConf

from specexp.datasets import Example
from specexp.decoding.protocols import Facts
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.experiment.experiment import QUICK_EXAMPLES
from specexp.models.pair import ModelPair, draft_runners, runner
from specexp.peers import PeerLoop
from specexp.text import Prompter, with_template

logger = logging.getLogger(__name__)

MODELS = frozenset({"target", "draft", "drafts", "captured", "oracle"})  # runners that a method can ask for
SUPPLIED = MODELS | {"pair"}
PARTS = ("all", "train", "test")
LABEL = "name"  # what tables call the method; no argument of it


def methods_of(config: DictConfig) -> dict[str, DictConfig]:
    """The nodes of a run's methods by side: "method", "baseline" (the configuration's `eager`), and "baseline_NAME" for further ones."""
    named = {"baseline" if name == "eager" else f"baseline_{name}": node for name, node in config.baselines.items()}
    return {"method": config.method} | named


def asked(node: DictConfig) -> frozenset[str]:
    """The names of what a job supplies to this method; no model at all for a method that decodes elsewhere."""
    return SUPPLIED.intersection(signature(resolve_name(node["_target_"])).parameters)


def decodes_here(config: DictConfig) -> bool:
    """Whether the method asks for models of ours; one that does not uses those of a server."""
    return bool(asked(config.method) & MODELS)


def follows_sampling(node: DictConfig) -> bool:
    """Whether the method draws its tokens by the run's sampling rule; the return type of its function says so."""
    return getattr(signature(resolve_name(node["_target_"]), eval_str=True).return_annotation, "follows_sampling", True)


def arguments_of(node: DictConfig) -> DictConfig:
    """The node without its label, as a call that still lacks what is supplied."""
    call = OmegaConf.to_container(node, resolve=True)
    return OmegaConf.create({key: value for key, value in call.items() if key != LABEL} | {"_partial_": True})


def fit_pair(config: DictConfig) -> None:
    """Takes the draft models that no side asks for out of the pair: they are neither required nor loaded. A cascade without several drafts
    has the one. Stand-ins write the tiny pair's ids, which its tables fit, in states of another width than its heads read; its tokenizer
    has no chat template. A pair without a name is called like its target: a Hub id as it is, a directory by its own name.
    """
    pair, wanted = config.model_pair, _wanted(config)
    if pair.weights == "standin":
        pair.tables, pair.medusa, pair.prompt_format = "tiny", None, "raw"
    if "drafts" not in wanted:
        pair.drafts = {}
    if "draft" not in wanted and not ("drafts" in wanted and not pair.drafts):
        pair.draft = None
    if pair.name is None and not OmegaConf.is_missing(pair.target, "name"):
        place = Path(pair.target.name).expanduser()
        pair.name = place.resolve().name if place.is_dir() else pair.target.name


def lacks_draft(config: DictConfig) -> bool:
    """Whether a side asks for a draft model that a fitted pair does not have."""
    return bool(_wanted(config) & {"draft", "drafts"}) and not config.model_pair.drafts and config.model_pair.draft is None


def _wanted(config: DictConfig) -> frozenset[str]:
    return frozenset().union(*(asked(node) for node in (config.method, *config.baselines.values())))


def prompter_of(config: DictConfig, tokenizer) -> Prompter:
    """What makes ids of prompts, with the chat template that the configuration chooses. Raises UserError for one that does not fit."""
    arguments = config.chat_template_args and OmegaConf.to_container(config.chat_template_args, resolve=True)
    return Prompter(with_template(tokenizer, config.chat_template), arguments)


def check_format(config: DictConfig, examples: Sequence[Example], prompter: Prompter) -> bool:
    """Whether the tokenizer has a chat template that raw prompts leave unused. Raises UserError where prompts cannot be asked in chat, or
    need no template and one was given; what a data file has rendered before is said in the log.
    """
    if examples[0].messages:
        if not prompter.has_template:
            raise UserError(
                f"the tokenizer of {config.model_pair.target.name} has no chat template, which dataset.prompt_format=chat needs: give "
                "chat_template=plain or chat_template=FILE, or dataset.prompt_format=raw."
            )
        if odd := next((example for example in examples if prompter.is_rendered(example.messages[-1]["content"])), None):
            raise UserError(f"{odd.id} was put into a chat template before, and would be twice: set dataset.prompt_format=raw.")
        system = next((message["content"] for message in examples[0].messages if message["role"] == "system"), "")
        if system.strip() not in prompter.rendered(examples[0].messages):
            logger.warning("the chat template does not write the system prompt, so the model does not see it.")
        if prompter.leading and prompter.chat_ids(examples[0].messages)[: len(prompter.leading)] != prompter.leading:
            spelt = prompter.tokenizer.decode(prompter.leading)
            logger.warning("the chat template does not write %s, which the tokenizer puts before every raw prompt.", spelt)
        return False
    if config.chat_template is not None or config.chat_template_args is not None:
        given = "chat_template" if config.chat_template is not None else "chat_template_args"
        raise UserError(f"{given}={config[given]} goes with dataset.prompt_format=chat only: raw prompts are in no template; leave it out.")
    if doubled := sum(prompter.doubles(example.prompt) for example in examples):
        spelt = prompter.tokenizer.decode(prompter.leading)
        logger.warning("%d prompts begin with %s, which the tokenizer writes before every text; it is given once.", doubled, spelt)
    if unused := prompter.has_template and not all(prompter.is_rendered(example.prompt) for example in examples):
        logger.warning("the prompts are raw, though the tokenizer has a chat template; dataset.prompt_format=chat asks as in a chat.")
    return unused


@dataclass(frozen=True)
class Supply:
    """Builds what methods ask for. pair: checked. cache, captured_cache: runner classes with their settings."""

    pair: ModelPair
    cache: Callable
    captured_cache: Callable

    def __call__(self, name: str) -> object:
        """A new object each time, as every side keeps its own caches; the weights are shared."""
        if name == "pair":
            return self.pair
        if name == "drafts":
            return draft_runners(self.pair, self.cache)
        model = self.pair.draft if name == "draft" else self.pair.target
        return runner(model, self.pair.target, self.captured_cache if name == "captured" else self.cache)


def supplied(method: partial, supply: Callable[[str], object]) -> object:
    """What the method builds. Raises UserError for values that its parts refuse."""
    names = SUPPLIED.intersection(signature(method.func).parameters)
    try:
        return method(**{name: supply(name) for name in sorted(names)})
    except ValueError as error:
        raise UserError(str(error)) from error


class NotLoaded(Exception):
    """A method tried to use weights while it was only being checked."""


class Unloaded:
    """Takes the place of a runner before weights are loaded. cache: the runner's class with its settings, which says what kind it is.
    Whatever depends on the weights counts as possible.
    """

    def __init__(self, cache: partial):
        kind = cache.func
        self.facts = Facts(kind.kind, "cpu", trees=True, cache_exact=kind.cache_exact, states=kind.can_keep_states)

    def keep_states(self) -> None:
        """Allowed where the kind of cache allows it; a model may refuse it later."""
        self.facts.check_states()

    def __getattr__(self, name: str) -> object:
        raise NotLoaded(name)


def rehearse(method: partial, pair: ModelPair | None, cache: partial, captured_cache: partial | None, sampling: Sampling) -> None:
    """Builds the method without weights, so that values which its parts refuse are reported minutes earlier than after loading. Raises
    UserError.
    """

    def supply(name: str) -> object:
        if name == "pair":
            return pair
        if name == "drafts":
            return {name: Unloaded(cache) for name in pair.all_drafts}
        return Unloaded(captured_cache if name == "captured" else cache)

    try:
        built = supplied(method, supply)
    except NotLoaded:
        built = signature(method.func, eval_str=True).return_annotation
        if not isinstance(built, type) or not issubclass(built, PeerLoop):  # whose class alone says which sampling it has
            return
    built.check(sampling)


@dataclass(frozen=True)
class Inputs:
    """What was read. pair: None where a server decodes. methods: by side, each a call that lacks what is supplied. build: instantiates a
    node.
    """

    pair: ModelPair | None
    dataset: object
    examples: list
    tracker: object
    profile: object
    sampling: Sampling
    cache: Callable
    captured_cache: Callable | None
    methods: dict[str, Callable]
    build: Callable


def read_inputs(config: DictConfig, build: Callable) -> Inputs:
    """Reads everything in the order of its cost. Raises UserError for what the user can put right."""
    dataset, tracker, profile, pair = (build(config[group]) for group in ("dataset", "tracker", "profile", "model_pair"))
    if level := sandbox_level(dataset):
        logger.info("model-written code is judged in the sandbox at level %s", level)
    sampling, cache, captured_cache = (build(config[group]) for group in ("sampling", "cache", "captured_cache"))
    methods = {name: build(arguments_of(node)) for name, node in methods_of(config).items()}
    for method in methods.values():
        rehearse(method, pair, cache, captured_cache, sampling)
    examples = part_of(dataset.examples(), config.part)[: QUICK_EXAMPLES if config.quick else None]
    return Inputs(pair, dataset, examples, tracker, profile, sampling, cache, captured_cache, methods, build)


def part_of(examples: Sequence, part: str) -> list:
    """One half of the examples, chosen by a hash of their ids: `train` and `test` share none. Raises UserError where a half would be
    empty.
    """
    if part not in PARTS:
        raise UserError(f"part={part} is not one of {', '.join(PARTS)}; train and test are disjoint halves of the examples.")
    if part == "all":
        return list(examples)
    if len(examples) < 2:
        raise UserError(f"part={part} of {len(examples)} example holds none; raise dataset.limit.")
    hashed = sorted(examples, key=lambda example: sha256(example.id.encode()).digest())
    train = {example.id for example in hashed[: len(hashed) // 2]}
    return [example for example in examples if (example.id in train) == (part == "train")]


def sandbox_level(dataset: object) -> str | None:
    """Which sandbox runs model-written code; None where the data set runs none."""
    return dataset.sandbox.level if hasattr(dataset, "sandbox") else None
