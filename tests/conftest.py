"""What all tests share: the modules beside them can be imported, W&B and the Hub stay offline, and a run of the whole fast tier fails if
it reached some message of the package with no test.
"""

import logging
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import messages
import thinned
import torch
from absl import logging as absl_logging
from hydra.core.global_hydra import GlobalHydra

messages.watch()

from specexp.cli import main as command  # noqa: E402 - imports are watched from here on

# absl is imported with the ROUGE scorer. When logging is configured again, its handler closes the stream with which it was made, unless that
# is the present standard error; while a test's output is captured, that would be the stream of all other tests.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

torch.set_num_threads(1)  # tiny models: a second thread only waits

BRIEFLY = ("tracker=none", "threads=1", "warmup=1", "dataset.limit=2", "max_new_tokens=8")


@pytest.fixture
def command_line(monkeypatch, tmp_path, capfd):
    """command_line(*overrides) -> (exit code, standard error), in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*arguments, brief=True):
        GlobalHydra.instance().clear()
        given = {argument.partition("=")[0] for argument in arguments}
        added = [override for override in BRIEFLY if brief and override.partition("=")[0] not in given]
        mode = [] if "-m" in arguments else ["--run"]  # given explicitly, so that Hydra composes the configuration once
        monkeypatch.setattr(sys, "argv", ["specexp", *mode, *arguments, *added])
        capfd.readouterr()
        try:
            command.cli()
        except SystemExit as end:
            return end.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    return call


@pytest.fixture(autouse=True)
def same_log_handlers():
    """A run inside a test configures logging for the whole process, on streams that end with the test; this restores the handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.hookimpl(tryfirst=True)  # before the tiers are selected
def pytest_collection_modifyitems(items):
    """Leaves out cases of many of a kind, and puts the longest tests first, while others are left for the other cores."""
    cases: Counter = Counter()
    for item in items:
        test = item.path.name, getattr(item, "originalname", item.name)
        if thinned.is_left_out(*test, cases[test]):
            item.add_marker(pytest.mark.slow)
        cases[test] += 1
    items.sort(key=lambda item: "test_soak" not in item.nodeid)


def pytest_sessionfinish(session):
    """A worker reports which messages it reached; the process that has all reports judges them, if everything was run and passed."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["reached"] = sorted(messages.REACHED)
    elif _is_whole(config) and not session.testsfailed and messages.REACHED and (missing := sorted(messages.sites() - messages.REACHED)):
        config.stash[MISSING] = missing
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    messages.REACHED.update(getattr(node, "workeroutput", {}).get("reached", ()))


def pytest_terminal_summary(terminalreporter, config):
    for site in config.stash.get(MISSING, ()):
        terminalreporter.line(f"no test reaches the message at specexp/{site}", red=True)


MISSING = pytest.StashKey[list[str]]()


def _is_whole(config) -> bool:
    """Whether nothing was selected beyond what pyproject.toml selects."""
    options = config.option
    # (lf belongs to the cache plugin, which may be switched off)
    narrowed = options.keyword or getattr(options, "lf", False) or options.deselect or options.ignore or options.maxfail or options.collectonly
    return config.args_source is not config.ArgsSource.ARGS and options.markexpr == "not slow and not gpu" and not narrowed
