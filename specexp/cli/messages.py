"""Where the configuration lies, and what is wrong with a command line in one sentence. Imports neither torch nor Hydra's machinery.

Hydra's and OmegaConf's messages are known by their text; one that is not known is told by its first line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml


def conf_directory() -> str:
    """conf/ inside the package (wheel), else beside it (editable install, checkout)."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def unknown_choice(group: str, name: str, options: Sequence[str]) -> str:
    """GROUP=NAME where the group has only `options`."""
    options = [option for option in options if not option.startswith("_")]
    more = " (pip install 'specexp[sweeps]' brings more)" if group.startswith("hydra/") else ""
    return f"{group}={name} does not exist{_meant(name, options)}; choose one of {', '.join(options)}{more}."


def unparsable(override: str) -> str:
    """An argument that Hydra's grammar does not take."""
    key, _, value = override.partition("=")
    quoted = "\"{}='{}'\"".format(key if key.strip("+@") else f"{key}KEY", value.strip("'\"") or "VALUE")
    return f"{override} is not KEY=VALUE; a value with special characters goes into two pairs of quotes: {quoted}."


def not_a_name(arguments: Sequence[str]) -> str:
    """Hydra refused a choice because it is no text (method=3, tracker=null), without saying which of the `arguments`."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        options = sorted(file.stem for file in (Path(conf_directory()) / key.partition("@")[0]).glob("*.yaml"))
        if key and options and not isinstance(yaml.safe_load(value), str):
            return unknown_choice(key, value, options)
    return unparsable(next((argument for argument in arguments if argument.startswith("=")), arguments[-1]))


def explained(error: Exception, primary: str = "config") -> str:
    """Any other message of Hydra or OmegaConf, about the configuration that conf/PRIMARY.yaml begins."""
    text = f"{error}\n{error.__cause__ or ''}".strip()
    for pattern, sentence in SENTENCES:
        if match := re.search(pattern, text):
            return sentence(*match.groups())
    if unknown := re.search(UNKNOWN_KEY, text):
        return _unknown_key(unknown[1], primary)
    first, key = " ".join(text.split("\n")[0].split()), re.search(r"full_key: (\S+)", text)
    return f"{key[1]}: {first}; give it another value." if key else first


def _unknown_key(key: str, primary: str) -> str:
    group, _, rest = key.partition(".")
    if owners := [file.stem for file in sorted((Path(conf_directory()) / group).glob("*.yaml")) if rest in _dotted(_load(file), "")]:
        chosen = ", ".join(f"{group}={owner}" for owner in owners)
        return f"{key} is a key of {chosen} only; choose that, or in a sweep over {group} write {key}=choice(VALUE)."
    command = "specexp" if primary == "config" else f"specexp.{primary}"
    shown = f"`python -m {command} --cfg job` shows all keys"
    return f"the configuration has no key {key}{_meant_key(key, primary)}; {shown}, +{key}=... would add it."


def _misplaced(group: str, places: str) -> str:
    return f"{group} is no choice of its own; choose {places} instead."


def _several(key: str, values: str) -> str:
    return f"{key}={values} is more than one value; add -m to sweep over them, or write {key}=[{values}] for one list."


UNKNOWN_KEY = r"Could not (?:override|delete from config\.) '([^'@]+)'"
SENTENCES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Could not override '([^']+)'\.\nDid you mean to override (.+)\?\n", _misplaced),
    (r"An item is already at '([^']+)'", lambda key: f"{key} is there already; leave out the + before it."),
    (r"Ambiguous value for argument '([^=]+)=(.*)'", _several),
    (r"Error merging override (.+)\n(.+)", lambda override, reason: f"{override} does not fit; {reason}."),
)


def _meant(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _meant_key(key: str, primary: str) -> str:
    """Nearest in the same place; else the same name elsewhere, a handle first (gamma for method.gamma); else the nearest of all."""
    parent, _, leaf = key.rpartition(".")
    keys = {known: known.rpartition(".") for known in _keys(primary)}
    siblings = {name: known for known, (place, _, name) in keys.items() if place == parent}
    if near := difflib.get_close_matches(leaf, siblings, n=1):
        return f" (did you mean {siblings[near[0]]}?)"
    elsewhere = sorted((known for known, (_, _, name) in keys.items() if name == leaf), key=lambda known: known.count("."))
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else "" if parent in keys else _meant(key, list(keys))


def _keys(primary: str) -> list[str]:
    """The groups, and the dotted keys of all files whose group has a place of its own, each under its group's name."""
    root = Path(conf_directory())
    primaries = list(_primaries(primary))
    defaults = [default for name in primaries for default in _defaults(name) if isinstance(default, dict)]
    groups = [choice.partition("@")[0].removeprefix("optional ") for default in defaults for choice in default if "hydra/" not in choice]
    files = [*(root / f"{name}.yaml" for name in primaries), *(file for group in groups for file in sorted((root / group).glob("*.yaml")))]
    found = [key for file in files for key in _dotted(_load(file), file.parent.name if file.parent != root else "")]
    return list(dict.fromkeys(groups + found))


def _primaries(name: str) -> Iterator[str]:
    """The file's name, and those of the whole configurations that it begins with."""
    yield name
    for default in _defaults(name):
        if isinstance(default, str) and default != "_self_":
            yield from _primaries(default)


def _defaults(name: str) -> list:
    return _load(Path(conf_directory()) / f"{name}.yaml")["defaults"]


def _load(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _dotted(content: dict, parent: str) -> Iterator[str]:
    for key, value in content.items():
        if key not in ("defaults", "hydra") and not key.startswith("_"):
            name = f"{parent}.{key}" if parent else key
            yield name
            yield from _dotted(value, name) if isinstance(value, dict) else ()
