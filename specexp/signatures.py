"""Whether a configuration fits the classes it names: parameters that exist, values of their plain types. Told before anything is built.

Knows signatures and nothing of what a value means; a range is refused by the class itself.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from specexp.errors import UserError

WORDS = {int: "a whole number", float: "a number", str: "a text (a number as text: \"KEY='1'\")", bool: "true or false", NoneType: "null"}
ELEMENTS = {int: "whole numbers", float: "numbers", str: "texts (a number as text: \"KEY=['1']\")"}


def check_signatures(config: DictConfig) -> None:
    """UserError for a parameter that its class lacks, and for a value of another type; named as the user can give it."""
    for path, node in _nodes(config):
        parameters = _signature(node["_target_"]).parameters
        for key in node:
            if key.startswith("_") or OmegaConf.is_missing(node, key):
                continue
            if key not in parameters:
                raise UserError(f"{path}.{key} does not exist{_meant(key, list(parameters))}; {path} takes {', '.join(parameters)}.")
            hint = parameters[key].annotation
            if not _fits(node[key], hint):
                raise UserError(f"{_source(config, f'{path}.{key}')}={shown(node[key])} does not fit; give {_words(hint)}.")


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


def _signature(target: str) -> inspect.Signature:
    module, _, name = target.rpartition(".")
    return inspect.signature(getattr(import_module(module), name), eval_str=True)


def _fits(value: object, hint: object) -> bool:
    """Whether `value`, from a configuration, can be or become a `hint`; callables and the like are let pass."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) in (tuple, list, Sequence):
        return OmegaConf.is_list(value) and _all_fit(value, range(len(value)), get_args(hint)[0])
    if get_origin(hint) is Mapping:
        return OmegaConf.is_dict(value) and ("_target_" in value or _all_fit(value, value, get_args(hint)[1]))
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    return not inspect.isclass(hint) or (OmegaConf.is_dict(value) and "_target_" in value)  # an object: class and keys


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
    """The key whose value `key` takes over, through all interpolations: method.gamma for method.decoder.drafter.policy.gamma."""
    place, _, name = key.rpartition(".")
    node = OmegaConf.select(config, place) if place else config
    raw = OmegaConf.to_container(node, resolve=False)[name]
    reference = re.fullmatch(r"\$\{(\.*)([\w.]+)\}", raw) if isinstance(raw, str) else None
    if reference is None:
        return key
    up = place.split(".")[: 1 - len(reference[1]) or None] if reference[1] else []
    return _source(config, ".".join([*up, reference[2]]))


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
