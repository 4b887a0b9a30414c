"""The folders that configurations are read from: the project's own, those of installed plugins, and what --config-dir names.

A plugin is a package with an entry point in the group `specexp.plugins`, whose value is a module; a folder `conf` lies beside that
module's file and is laid out like the project's. The module itself is imported only when a configuration uses a function of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import yaml

from specexp.errors import UserError

GROUP = "specexp.plugins"
CONFIG_DIR = ("--config-dir", "-cd")  # Hydra's options for one more folder


def conf_directory() -> str:
    """The project's own folder: inside the package once it is installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def conf_folders(arguments: Sequence[str] | None = None) -> list[Path]:
    """All folders, in the order in which Hydra looks into them. arguments: of the command line, sys.argv's without any."""
    return [Path(conf_directory()), *plugin_folders(), *config_dirs(sys.argv[1:] if arguments is None else arguments)]


def plugin_folders() -> list[Path]:
    """The conf folder of every installed plugin. UserError for a plugin without one."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return [_folder(point.name, point.module) for point in points]


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """What --config-dir names, as far as it is there."""
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config-dir=")]
    named += [following for option, following in pairwise(arguments) if option in CONFIG_DIR]
    return [Path(folder) for folder in named if Path(folder).is_dir()]


def options(group: str, folders: Sequence[Path] | None = None) -> list[str]:
    """The names that can be chosen in a group, sorted; a file whose name begins with _ is a part of others."""
    files = [file for folder in folders or conf_folders() for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def read_mapping(file: Path) -> dict:
    """The mapping in a file; {} for a file that holds none: Hydra says what is wrong with one that is chosen."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _folder(name: str, module: str) -> Path:
    try:
        found = find_spec(module)
    except ImportError:  # a package above it is missing
        found = None
    if found is None or found.origin is None:
        raise UserError(f"the plugin {name} names the module {module}, which is not there; install the plugin anew or uninstall it.")
    folder = Path(found.origin).parent / "conf"
    if not folder.is_dir():
        raise UserError(f"the plugin {name} has no folder {folder}; put its configurations there or uninstall it.")
    return folder
