"""Who may import whom, read off the source; and what `--help` may not pay for."""

import subprocess
import sys

import pytest
from floors import files, imports, parsed, upward_imports

from specexp.errors import UserError, installed

ONLY_IN = {  # package -> prefixes of the files that may import it
    "hydra": ("cli/", "report/sweep"),
    "transformers": ("runners/", "models/", "training/", "peers/", "datasets/"),
    "wandb": ("tracking/", "report/"),
    "httpx": ("peers/",),
    "prompt_toolkit": ("chat/",),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"), ("serve/",)),
    "subprocess": ("scoring/sandbox",),
}


def test_rooms_import_downwards_only():
    assert not upward_imports()


def test_outside_packages_stay_in_their_rooms():
    wrong = [
        f"{name} imports {module}"
        for file, name in files()
        for module in imports(parsed(file))
        for package, places in ONLY_IN.items()
        if module.split(".")[0] == package and not name.endswith("__main__.py") and not name.startswith(places)
    ]
    assert not wrong


def test_only_caches_touch_transformers_cache_classes():
    assert [name for file, name in files() if any("cache_utils" in module for module in imports(parsed(file)))] == ["runners/caches.py"]


def test_a_package_that_only_an_extra_brings_is_named_with_it():
    installed("chat", "rich")
    with pytest.raises(UserError, match=r"no_such_package is not installed; pip install 'specexp\[chat\]'"):
        installed("chat", "rich", "no_such_package")


def test_the_entry_point_imports_nothing_heavy():
    heavy = "torch, transformers, wandb, evaluate, datasets, rich, httpx, fastapi, prompt_toolkit"
    program = f"import sys, specexp.cli.main, specexp.cli.jobs, specexp.chat.__main__, specexp.serve.__main__; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
