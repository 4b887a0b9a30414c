"""May this configuration run? Whatever is wrong with it as such is refused before anything is built or loaded from it.

Checked are the values at its top, that every key is a parameter of the class or function that its node names, and that every value is
of the type which that parameter asks for. What a value means is judged by the class itself. Models that no side of the run uses are
taken out, so that they are neither asked for nor loaded.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from specexp.cli.credentials import refuse_credentials
from specexp.cli.messages import meant
from specexp.cli.plugins import conf_directory, options, read_mapping
from specexp.errors import UserError
from specexp.experiment.supply import LABEL, MODELS, SUPPLIED, asked, decodes_here, fit_pair, follows_sampling, lacks_draft
from specexp.scoring.sandbox import check_level

LEAST = {"max_new_tokens": 1, "samples": 1, "repeats": 1, "warmup": 0, "seed": 0, "threads": 1}  # whole numbers
NODES = (  # what must hold keys
    "model_pair", "method", "dataset", "cache", "sampling", "tracker", "profile", "baseline", "baselines", "captured", "captured_cache",
)  # fmt: skip
SWITCHES = ("ignore_eos", "quick", "cost_curve")
QUICK_TOKENS = 64
EAGER = "eager"  # the baseline of every run; where a server decodes, another server takes its place
BASELINE = ("url", "model", "api_key_env")  # of a second server


def check(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """UserError for anything that is wrong with the configuration as such. What this run does not need is taken out of `config`.

    overrides: what the user gave, as KEY=VALUE; the composed configuration does not show which values are defaults.
    """
    check_nodes(config, NODES)
    check_nodes(config, [f"baselines.{name}" for name in config.baselines])
    _check_methods(config)
    _check_values(config)
    if config.quick:
        config.max_new_tokens = min(config.max_new_tokens, QUICK_TOKENS)
    if decodes_here(config):
        fit_pair(config)
        _check_draft(config)
    else:
        _drop_pair(config)
    if missing := sorted(OmegaConf.missing_keys(config), reverse=True):
        instead = _without_draft() if any(key.startswith("model_pair.draft") for key in missing) else ""
        raise UserError(f"not set: {', '.join(missing)}; give each as KEY=VALUE (a model is a directory or a Hub id){instead}.")
    check_signatures(config)
    check_replaced(config, overrides)
    refuse_credentials(config)


def _check_methods(config: DictConfig) -> None:
    """UserError for a method whose function cannot be had, and for a baseline that cannot run beside it."""
    for place in _method_places(config):
        node = OmegaConf.select(config, place)
        if "_target_" not in node:
            raise UserError(f"{place} names no function; choose a method by name, or give {place}._target_=MODULE.FUNCTION.")
        _signature(place, node["_target_"])
    here = decodes_here(config)
    if here and (odd := [name for name, node in config.baselines.items() if not asked(node) & MODELS]):
        raise UserError(f"baselines.{odd[0]} decodes on a server, and the method decodes here; leave it out (~baselines.{odd[0]}).")
    if not here and (odd := [name for name in config.baselines if name != EAGER]):
        way_out = f"leave it out (~baselines.{odd[0]}), and give baseline.url=URL for a second server"
        raise UserError(f"baselines.{odd[0]} decodes here, and the method on a server; {way_out}.")
    if odd := [key for key in config.baseline if key not in BASELINE]:
        raise UserError(f"baseline.{odd[0]} does not exist; baseline takes {', '.join(BASELINE)}.")


def _check_values(config: DictConfig) -> None:
    for key, least in LEAST.items():
        value = config[key]
        if (type(value) is not int or value < least) and not (key == "threads" and value is None):
            raise UserError(f"{key}={shown(value)} does not fit; give a whole number, {least} or more.")
    for key in SWITCHES:
        if type(config[key]) is not bool:
            raise UserError(f"{key}={shown(config[key])} does not fit; give true or false.")
    if (config.threads or 0) > (cores := os.cpu_count() or 1):
        raise UserError(f"threads={config.threads} is more than the {cores} cores of this machine; give {cores} or fewer, or null.")
    _check_template(config)
    check_level(config.sandbox)
    if config.samples > 1 and config.sampling.temperature == 0:
        raise UserError(f"samples={config.samples} at temperature 0 are all the same text; choose sampling=nucleus or another.")
    if config.baseline.url is not None and decodes_here(config):
        raise UserError(f"baseline.url={config.baseline.url} goes with method=endpoint only; leave it out, the baseline decodes here.")
    if config.samples > 1 and not follows_sampling(config.method):
        raise UserError(f"samples={config.samples} are all the same text, as method={config.method.name} draws nothing; set samples=1.")


def _check_template(config: DictConfig) -> None:
    for key, fits, words in (("chat_template", isinstance(config.chat_template, str), "plain, a Jinja file"),
                             ("chat_template_args", OmegaConf.is_dict(config.chat_template_args), "the arguments by name, {NAME: VALUE}")):
        if config[key] is not None and not fits:
            raise UserError(f"{key}={shown(config[key])} does not fit; give {words}, or null.")


def _drop_pair(config: DictConfig) -> None:
    """A server brings its models with their template, and its baseline is another server."""
    if config.chat_template is not None:
        raise UserError(f"chat_template={config.chat_template} would be ignored, as the server applies its model's own; leave it out.")
    config.model_pair = config.dtype = config.device = None
    config.baselines, config.captured, config.captured_cache = {}, None, None


def _check_draft(config: DictConfig) -> None:
    if lacks_draft(config):
        raise UserError(
            "model_pair.draft=null leaves the method without the draft model that it asks for; give model_pair.draft.name=DIR"
            f"{_without_draft()}."
        )


def _without_draft() -> str:
    """The end of a sentence: the project's methods that ask for the target alone."""
    nodes = {name: read_mapping(Path(conf_directory()) / "method" / f"{name}.yaml") for name in options("method", [Path(conf_directory())])}
    found = [name for name, node in nodes.items() if asked(node) == {"target"}]
    return f", or choose a method that needs no draft model (method={', '.join(found)})"


WORDS = {
    int: "a whole number", float: "a number", str: "a text (a number as text: \"KEY='1'\")", bool: "true or false", NoneType: "null",
    object: "a value",
}  # fmt: skip
ELEMENTS = {int: "whole numbers", float: "numbers", str: "texts (a number as text: \"KEY=['1']\")"}


def check_signatures(config: DictConfig) -> None:
    """UserError for a parameter that its class lacks, and for a value of another type; named as the user can give it."""
    methods = _method_places(config)
    for path, node in _nodes(config):
        hints = {name: parameter.annotation for name, parameter in _signature(path, node["_target_"]).parameters.items()}
        if path in methods:  # what the job supplies is nobody's to give, and every method has a label
            hints = {name: hint for name, hint in hints.items() if name not in SUPPLIED} | {LABEL: str}
        for key in node:
            if key.startswith("_") or OmegaConf.is_missing(node, key):
                continue
            if key not in hints:
                raise UserError(f"{path}.{key} does not exist{meant(key, list(hints))}; {path} takes {', '.join(hints) or 'nothing'}.")
            hint = hints[key]
            if not _fits(node[key], hint):
                raise UserError(f"{_source(config, f'{path}.{key}')}={shown(node[key])} does not fit; give {_words(hint)}.")


REPLACED = {"policy": "gamma", "reviewer": "leniency"}  # an argument of a method, and the one that it is used in place of


def check_replaced(config: DictConfig, overrides: Sequence[str]) -> None:
    """UserError for a value that the user gave and that another one, which was chosen too, leaves without effect."""
    given = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    for place in _method_places(config):
        for part, replaced in REPLACED.items():
            chosen = OmegaConf.select(config, f"{place}.{part}")
            if (key := f"{place}.{replaced}") in given and chosen is not None and not _takes_over(chosen, replaced, config, place):
                raise UserError(
                    f"{key}={given[key]} would be ignored, as {place}.{part} is used in its place; leave out one of the two "
                    f"(the keys of the chosen one are {place}.{part}.KEY)."
                )


def _takes_over(chosen: DictConfig, name: str, config: DictConfig, place: str) -> bool:
    """Whether the chosen part reads the method's own value, by an interpolation."""
    return name in chosen and OmegaConf.is_interpolation(chosen, name) and chosen[name] == OmegaConf.select(config, f"{place}.{name}")


def _method_places(config: DictConfig) -> list[str]:
    return ["method", "captured", *(f"baselines.{name}" for name in config.get("baselines", {}))]


def check_nodes(config: DictConfig, places: Iterable[str]) -> None:
    """UserError for a place that must hold keys and does not."""
    for place in places:
        value = OmegaConf.select(config, place, throw_on_missing=False)
        if not OmegaConf.is_dict(value):
            raise UserError(f"{place}={shown(value)} does not fit; choose one by name, or give its keys ({place}.NAME=VALUE).")


def shown(value: object) -> str:
    """`value` as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nodes(config: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node that names a class, with its dotted path; what an interpolation leads to is visited where it stands."""
    if "_target_" in config:
        yield path, config
    for key in config:
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, key) and isinstance(config[key], DictConfig):
            yield from _nodes(config[key], f"{path}.{key}" if path else str(key))


def _signature(path: str, target: object) -> inspect.Signature:
    """Of the class or function that the node at `path` names. UserError where there is none."""
    key = f"{path}._target_" if path else "_target_"
    module, _, name = str(target).rpartition(".")
    if not module:
        raise UserError(f"{key}={target} does not fit; give MODULE.NAME of a class or a function.")
    try:
        home = import_module(module)
    except (ImportError, SyntaxError) as error:
        reason = f"the module {module} cannot be imported ({_first_line(error)})"
        raise UserError(f"{key}={target}: {reason}; put its directory on PYTHONPATH, or pip install its package.") from error
    if not callable(getattr(home, name, None)):
        raise UserError(f"{key}={target}: the module {module} has no {name}{meant(name, dir(home))}; name one of its classes or functions.")
    return inspect.signature(getattr(home, name), eval_str=True)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _fits(value: object, hint: object) -> bool:
    """Whether `value`, from a configuration, can be or become a `hint`; callables and the like are let pass."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) in (tuple, list, Sequence):
        return OmegaConf.is_list(value) and _all_fit(value, range(len(value)), get_args(hint)[0])
    if get_origin(hint) is Mapping:
        return OmegaConf.is_dict(value) and ("_target_" in value or _all_fit(value, value, get_args(hint)[1]))
    if hint in (inspect.Parameter.empty, object):
        return True
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if not inspect.isclass(hint):
        return value is not None
    return OmegaConf.is_dict(value) and "_target_" in value  # an object: class and keys


def _all_fit(values: DictConfig | ListConfig, keys: Iterable[object], hint: object) -> bool:
    return all(OmegaConf.is_missing(values, key) or _fits(values[key], hint) for key in keys)


def _words(hint: object) -> str:
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return " or ".join(WORDS.get(choice) or _words_of_kind(choice) for choice in choices)


def _words_of_kind(hint: object) -> str:
    if get_origin(hint) is Mapping:
        return f"names, each with {_words(get_args(hint)[1])} ({{NAME: ...}})"
    if get_origin(hint) in (tuple, list, Sequence):
        element = get_args(hint)[0]
        return f"a list ([a,b]) of {ELEMENTS.get(element) or _words(element)}"
    return "its keys (KEY.NAME=VALUE), its class among them"


def _source(config: DictConfig, key: str) -> str:
    """The key whose value `key` takes over, through all interpolations: dtype for model_pair.target.dtype."""
    place, _, name = key.rpartition(".")
    node = OmegaConf.select(config, place) if place else config
    raw = OmegaConf.to_container(node, resolve=False)[name]
    reference = re.fullmatch(r"\$\{(\.*)([\w.]+)\}", raw) if isinstance(raw, str) else None
    if reference is None:
        return key
    up = place.split(".")[: 1 - len(reference[1]) or None] if reference[1] else []
    return _source(config, ".".join([*up, reference[2]]))
