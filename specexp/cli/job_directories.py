"""The name of a job's directory inside its sweep's: the job's overrides, as far as every file system takes them as one name.

Where characters had to be replaced, or the name to be cut, a hash of all overrides follows, so that no two jobs share a directory and none
leaves the sweep's. What the overrides were is in `.hydra/overrides.yaml`. A directory that an earlier version named otherwise is used
again by a job with the same overrides. What is in a directory is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

LONGEST_BEFORE = 255  # bytes of a part of a path
LONGEST = 120  # bytes: file systems take 255 (encrypted ones 143), W&B a name of 128
HASHED = re.compile(r"-[0-9a-f]{10}$")
UNUSUAL = re.compile(r"[^A-Za-z0-9_.,=+@~\[\]-]")


def directory_name(overrides: str) -> str:
    """One name of at most LONGEST bytes for `overrides`, KEY=VALUE,KEY=VALUE. Different texts have different names, also on a file system
    that takes upper and lower case for the same.

    method.gamma=4,seed=1 stays as it is; dataset.path=../../x becomes dataset.path=.._.._x-1f0c64f5d0 or the like.
    """
    plain = UNUSUAL.sub("_", overrides)
    if plain == overrides == overrides.lower() and len(overrides) <= LONGEST and not HASHED.search(overrides):
        return overrides
    ending = f"-{sha256(overrides.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"
    return plain[: LONGEST - len(ending)] + ending


def of_job(*, _root_: DictConfig) -> str:
    """What `${specexp.job_directory:}` stands for in hydra.sweep.subdir."""
    hydra = OmegaConf.to_container(_root_.hydra, resolve=False)
    overrides = hydra["job"]["override_dirname"]
    ignored = hydra["job"]["config"]["override_dirname"]["exclude_keys"]
    earlier = _earlier(Path(_root_.hydra.sweep.dir), overrides, counted(hydra["overrides"]["task"], ignored), ignored)
    return earlier or directory_name(overrides)


def counted(overrides: Sequence[str], ignored: Collection[str]) -> list[str]:
    """The overrides that tell a job from others, sorted."""
    return sorted(override for override in overrides if override.partition("=")[0].lstrip("+~") not in ignored)


def _earlier(sweep: Path, name: str, overrides: list[str], ignored: Collection[str]) -> str | None:
    """The overrides as such, where they lead to a directory of the sweep, or below one, that holds a job with these overrides."""
    file = sweep / name / ".hydra" / "overrides.yaml"
    if ".." in Path(name).parts or max(map(len, name.encode("utf-8", "replace").split(b"/"))) > LONGEST_BEFORE or not file.is_file():
        return None
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        return None
    return name if isinstance(before, list) and counted(list(map(str, before)), ignored) == overrides else None


OmegaConf.register_new_resolver("specexp.job_directory", of_job, replace=True)
