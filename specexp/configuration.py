"""Where the configuration lies, and Hydra's errors in one sentence. Imports neither torch nor Hydra's machinery."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import yaml


def conf_directory() -> str:
    """conf/ inside the package (wheel), else beside it (editable install, checkout)."""
    inside = Path(__file__).parent / "conf"
    return str(inside if inside.is_dir() else Path(__file__).parent.parent / "conf")


def explained(error: Exception) -> str:
    """Hydra's and OmegaConf's messages as one sentence with the value and the way out."""
    text = str(error).strip()
    if match := re.search(r"Could not (?:override|append to config|find) '([^']+)'", text):
        return _unknown(match[1], text)
    if "Available options in" in text:
        head, _, options = text.partition("Available options in")
        group, _, names = options.partition(":")
        wanted = re.search(r"Could not find '([^']+)'", text)
        return f"{wanted[1] if wanted else head.strip()} does not exist; choose one of {', '.join(names.split())}."
    return " ".join(text.split("\n")[0].split())


def _unknown(name: str, text: str) -> str:
    """A misspelt key or a missing choice of a group."""
    if "Available options in" in text:
        group, _, names = text.partition("Available options in")[2].partition(":")
        options = [option for option in names.split() if not option.startswith("_")]
        return f"{name} does not exist{_nearest(name.rpartition('/')[2], options)}; choose one of {', '.join(options)}."
    return f"the configuration has no key {name}{_nearest(name, _keys())}; `python -m specexp --cfg job` shows all keys, +{name}=... would add it."


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _keys() -> list[str]:
    """Dotted keys of all YAML files under conf/, each under its group's name."""
    root = Path(conf_directory())
    keys: list[str] = []
    for file in sorted(root.rglob("*.yaml")):
        group = ".".join(file.relative_to(root).parent.parts)
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        keys += [f"{group}.{key}" if group else key for key in content if key not in ("defaults", "hydra")]
    return keys
