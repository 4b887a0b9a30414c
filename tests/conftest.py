"""Shared by all tests: modules beside them are importable, W&B and the Hub stay offline."""

import logging
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from absl import logging as absl_logging

# Imported with the ROUGE scorer. When logging is set up anew its handler closes the stream it was born with, should that not be the
# standard error of the moment; under a test's capture that would be the stream of all other tests.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

torch.set_num_threads(1)  # tiny models: a second thread only waits


@pytest.fixture(autouse=True)
def same_log_handlers():
    """A run inside a test configures logging for the whole process, on streams that end with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
