"""Who may import whom, read off the source; and what `--help` may not pay for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import specexp
from specexp.errors import UserError, installed

PACKAGE = Path(specexp.__file__).parent
# Floors, from the ground up. A room may import the rooms of the floors below it; beside it only what BESIDE names.
FLOORS = (
    {"errors", "assets"},
    {"decoding", "scoring", "figures"},
    {"tracking", "datasets", "text", "drafters", "runners"},
    {"models", "report"},
    {"training", "peers", "methods"},
    {"experiment"},
    {"live", "cli"},
    {"chat", "serve", "perplexity", "medusa", "tables"},
    {"__main__"},
)
FAR = {  # what no room of these may reach, though it lies below: the decoding side and the reading side know nothing of each other
    **{room: {"datasets", "scoring", "figures", "tracking", "report"} for room in ("decoding", "drafters", "runners")},
    **{room: {"decoding", "drafters", "runners", "models", "peers"} for room in ("datasets", "scoring", "figures", "tracking", "report")},
}
LEAVES = {"decoding.theory", "decoding.protocols"}  # formulas on plain numbers, and names of types: open to all
ONLY_IN = {  # package -> prefixes of the files that may import it
    "hydra": ("cli/", "report/sweep"),
    "transformers": ("runners/", "models/", "training/", "peers/", "datasets/"),
    "wandb": ("tracking/", "report/"),
    "httpx": ("peers/",),
    "prompt_toolkit": ("chat/",),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"), ("serve/",)),
    "subprocess": ("scoring/sandbox",),
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "specexp":
                yield from (f"specexp.{alias.name}" for alias in node.names)


def files():
    return [(file, file.relative_to(PACKAGE).as_posix()) for file in PACKAGE.rglob("*.py")]


def floor(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_rooms_import_downwards_only():
    wrong = []
    for file, name in files():
        room = name.split("/")[0].removesuffix(".py")
        for module in imports(file):
            path = module.split(".")[1:]
            if module.split(".")[0] != "specexp" or not path or path[0] in ("", room) or ".".join(path) in LEAVES:
                continue
            if room != "__init__" and (floor(path[0]) >= floor(room) or path[0] in FAR.get(room, ())):
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_outside_packages_stay_in_their_rooms():
    wrong = [
        f"{name} imports {module}"
        for file, name in files()
        for module in imports(file)
        for package, places in ONLY_IN.items()
        if module.split(".")[0] == package and not name.endswith("__main__.py") and not name.startswith(places)
    ]
    assert not wrong


def test_only_caches_touch_transformers_cache_classes():
    assert [name for file, name in files() if any("cache_utils" in module for module in imports(file))] == ["runners/caches.py"]


def test_a_package_that_only_an_extra_brings_is_named_with_it():
    installed("chat", "rich")
    with pytest.raises(UserError, match=r"no_such_package is not installed; pip install 'specexp\[chat\]'"):
        installed("chat", "rich", "no_such_package")


def test_the_entry_point_imports_nothing_heavy():
    heavy = "torch, transformers, wandb, evaluate, datasets, rich, httpx, fastapi, prompt_toolkit"
    program = f"import sys, specexp.cli.main, specexp.chat.__main__, specexp.serve.__main__; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
