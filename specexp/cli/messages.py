"""What is wrong with a command line, in one sentence. Knows Hydra's and OmegaConf's messages by their text, and the files under conf/.

A message that it does not know is shown by its first line. Imports neither torch nor Hydra, so that a mistake is answered at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from specexp.cli.manual import COMMANDS
from specexp.cli.plugins import conf_directory, conf_folders, options, read_mapping


def unknown_command(word: str) -> str:
    """A first word that is neither a command nor KEY=VALUE."""
    return f"{word} is neither a command{meant(word, list(COMMANDS))} nor KEY=VALUE; the commands are {', '.join(COMMANDS)}."


def unknown_choice(group: str, name: str, known: Sequence[str]) -> str:
    """GROUP=NAME where the group has only the choices `known`."""
    known = [option for option in known if not option.startswith("_")]
    more = " (pip install 'specexp[sweeps]' brings more)" if group.startswith("hydra/") else ""
    return f"{group}={name} does not exist{meant(name, known)}; choose one of {', '.join(known)}{more}."


def unparsable(override: str) -> str:
    """An argument that Hydra's grammar does not take."""
    if override in COMMANDS:
        return f"{override} is not KEY=VALUE; a command is the first word: specexp {override}."
    key, equals, value = override.partition("=")
    if not equals and re.fullmatch(r"[\w.]*\w", override):
        return f"{override} is not KEY=VALUE; write {override}=VALUE."
    quoted = "\"{}='{}'\"".format(key if key.strip("+@") else f"{key}KEY", value.strip("'\"") or "VALUE")
    return f"{override} is not KEY=VALUE; a value with special characters goes into two pairs of quotes: {quoted}."


def not_a_name(arguments: Sequence[str]) -> str:
    """Hydra refused a choice because it is no text (method=3, tracker=null), without saying which of the `arguments`."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        known = options(key.partition("@")[0]) if key else []
        if known and not isinstance(yaml.safe_load(value), str):
            return unknown_choice(key, value, known)
    return unparsable(next((argument for argument in arguments if argument.startswith("=")), arguments[-1]))


def explain_hydra(error: Exception, primary: str = "config") -> str:
    """Any other message of Hydra or OmegaConf, about the configuration that conf/PRIMARY.yaml begins."""
    text = re.sub(r", set env var HYDRA_FULL_ERROR=1[^\n]*", "", f"{error}\n{error.__cause__ or ''}".strip())
    for pattern, sentence in SENTENCES:
        if match := re.search(pattern, text):
            return sentence(*match.groups())
    if unknown := re.search(UNKNOWN_KEY, text):
        return _unknown_key(unknown[1], primary)
    first, key = " ".join(text.split("\n")[0].split()), re.search(r"full_key: (\S+)", text)
    return f"{key[1]}: {first.rstrip(':')}; give it another value." if key else first


def _unknown_key(key: str, primary: str) -> str:
    group, _, rest = key.partition(".")
    if owners := [file.stem for file in _files(group) if rest in _dotted(read_mapping(file), "")]:
        chosen = ", ".join(f"{group}={owner}" for owner in owners)
        return f"{key} is a key of {chosen} only; choose that, or in a sweep over {group} write {key}=choice(VALUE)."
    command = "specexp" if primary == "config" else f"specexp {primary}"
    shown = f"`{command} --cfg job` shows all keys"
    return f"the configuration has no key {key}{_nearest_key(key, primary)}; {shown}, +{key}=... would add it."


def _misplaced(group: str, places: str) -> str:
    return f"{group} is no choice of its own; choose {places} instead."


def _no_part(group: str, place: str) -> str:
    """GROUP@PLACE=NAME where what was chosen has no such part; the methods that have it are listed."""
    part = place.rpartition(".")[2]
    names = (f"{group}@{part}", f"/{group}@{part}")
    owners = [file.stem for file in _files("method") if any(names[0] in each or names[1] in each for each in _choices(read_mapping(file)))]
    way_out = f"choose one of {', '.join(f'method={owner}' for owner in owners)}" if owners else "leave it out"
    return f"{group}@{place} is no choice here, since what was chosen has no such part; {way_out}."


def _choices(content: dict) -> list[dict]:
    return [each for each in content.get("defaults", ()) if isinstance(each, dict)]


def _several(key: str, values: str) -> str:
    return f"{key}={values} is more than one value; add -m to sweep over them, or write {key}=[{values}] for one list."


def not_yaml(error: yaml.MarkedYAMLError) -> str:
    """A configuration file that cannot be parsed."""
    mark = error.problem_mark
    return f"{mark.name}, line {mark.line + 1} is not YAML ({error.problem}); mend that line."


def _no_folder(folder: str) -> str:
    return f"--config-dir {folder} does not exist; name a folder that is laid out like conf/ (method/NAME.yaml in it, say)."


def _no_plugin(target: str) -> str:
    return f"{target} is no plugin of Hydra's; choose one by name, with hydra/launcher=NAME or hydra/sweeper=NAME."


def _no_logging(kind: str, name: str) -> str:
    return f"hydra.job_logging.{kind}s.{name} cannot be made; choose hydra/job_logging=default, or another."


NO_SLURM = (
    "hydra/launcher=slurm needs Slurm's srun, which is not on this machine; start it on one of the cluster's, or try "
    "hydra/launcher=submitit_local."
)
UNKNOWN_KEY = r"Could not (?:override|delete from config\.) '([^'@]+)'"
SENTENCES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Could not override '([^']+)'\.\nDid you mean to override (.+)\?\n", _misplaced),
    (r"Could not override '([^'@]+)@([^']+)'\.\s+No match in the defaults list", _no_part),
    (r"Additional config directory '(.+)' not found", _no_folder),
    (r"An item is already at '([^']+)'", lambda key: f"{key} is there already; leave out the + before it."),
    (r"Ambiguous value for argument '([^=]+)=(.*)'", _several),
    (r"(?:Invalid plugin|Unknown plugin class :) '(.+?)'", _no_plugin),
    (r"Could not detect \"srun\"", lambda: NO_SLURM),
    (r"Unable to configure (\w+) '(.+)'", _no_logging),
    (r"Error merging override (.+)\n(.+)", lambda override, reason: f"{override} does not fit; {reason}."),
)


def meant(name: str, known: Sequence[str]) -> str:
    """The nearest of the `known` names as a question in brackets, nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _nearest_key(key: str, primary: str) -> str:
    """The nearest key in the same place; else a key of the same name in another place, the shortest first (method.gamma for gamma);
    else the nearest of all keys."""
    parent, _, leaf = key.rpartition(".")
    keys = {known: known.rpartition(".") for known in _keys(primary)}
    siblings = {name: known for known, (place, _, name) in keys.items() if place == parent}
    if near := difflib.get_close_matches(leaf, siblings, n=1):
        return f" (did you mean {siblings[near[0]]}?)"
    elsewhere = sorted((known for known, (_, _, name) in keys.items() if name == leaf), key=lambda known: known.count("."))
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else "" if parent in keys else meant(key, list(keys))


def _keys(primary: str) -> list[str]:
    """The groups, and the dotted keys of all files whose group has a place of its own, each under its group's name."""
    primaries = list(_primaries(primary))
    defaults = [default for name in primaries for default in _defaults(name) if isinstance(default, dict)]
    groups = [choice.partition("@")[0].removeprefix("optional ") for default in defaults for choice in default if "hydra/" not in choice]
    found = [key for name in primaries for key in _dotted(read_mapping(Path(conf_directory()) / f"{name}.yaml"), "")]
    found += [key for group in groups for file in _files(group) for key in _dotted(read_mapping(file), group)]
    return list(dict.fromkeys(groups + found))


def _primaries(name: str) -> Iterator[str]:
    """The name of a whole configuration, and the names of those that it begins with."""
    yield name
    for default in _defaults(name):
        if isinstance(default, str) and default != "_self_":
            yield from _primaries(default)


def _defaults(name: str) -> list:
    return read_mapping(Path(conf_directory()) / f"{name}.yaml")["defaults"]


def _files(group: str) -> list[Path]:
    return [file for folder in conf_folders() for file in sorted((folder / group).glob("*.yaml"))]


def _dotted(content: dict, parent: str) -> Iterator[str]:
    for key, value in content.items():
        if key not in ("defaults", "hydra") and not key.startswith("_"):
            name = f"{parent}.{key}" if parent else key
            yield name
            yield from _dotted(value, name) if isinstance(value, dict) else ()
