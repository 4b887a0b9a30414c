"""Who may import whom, read off the source; and what `--help` may not pay for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import specexp
from specexp.errors import UserError
from specexp.extras import installed

PACKAGE = Path(specexp.__file__).parent
ALLOWED = {  # room -> rooms of specexp it may import (besides itself, errors and assets)
    "decoding": {"theory"},
    "drafters": {"decoding"},
    "models": {"decoding", "network"},
    "peers": {"decoding", "models"},
    "datasets": {"evaluation", "network"},
    "evaluation": {"theory"},
    "tracking": {"evaluation"},
    "report": {"evaluation", "tracking"},
    "chat": {"configuration", "decoding", "detokenizer", "engine", "evaluation", "extras", "handles", "job", "report", "tracking"},
    "serve": {"decoding", "detokenizer", "engine", "evaluation"},
    "theory": set(),
    "network": set(),
    "assets": set(),
}
ONLY_IN = {  # package -> prefixes of the files that may import it
    "hydra": ("__main__", "report/sweep"),
    "transformers": ("models/", "peers/", "datasets/"),
    "wandb": ("tracking/", "report/"),
    "httpx": ("peers/",),
    "prompt_toolkit": ("chat/",),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"), ("serve/",)),
    "subprocess": ("evaluation/sandbox",),
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


def test_rooms_import_only_whom_they_may():
    wrong = []
    for file, name in files():
        if name.endswith("/__main__.py"):
            continue  # a command inside a room wires several of them together
        room = name.split("/")[0].removesuffix(".py")
        for module in imports(file):
            if room in ALLOWED and module.startswith("specexp."):
                other = module.split(".")[1]
                if other not in ALLOWED[room] | {room, "errors", "assets"}:
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
    assert [name for file, name in files() if any("cache_utils" in module for module in imports(file))] == ["models/caches.py"]


def test_a_package_that_only_an_extra_brings_is_named_with_it():
    installed("chat", "rich")
    with pytest.raises(UserError, match=r"no_such_package is not installed; pip install 'specexp\[chat\]'"):
        installed("chat", "rich", "no_such_package")


def test_the_entry_point_imports_nothing_heavy():
    heavy = "torch, transformers, wandb, evaluate, datasets, rich, httpx, fastapi, prompt_toolkit"
    program = f"import sys, specexp.__main__, specexp.chat.__main__, specexp.serve.__main__; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
