"""Runs a job in this process as the command would run it."""

import copy

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from specexp.cli.check import check
from specexp.cli.jobs import build
from specexp.cli.messages import conf_directory
from specexp.experiment import job
from specexp.tracking.records import read_records

BRIEF = ["tracker=none", "threads=1", "warmup=1", "cost_curve=false", "dataset.limit=2", "max_new_tokens=8"]

TIMES = {"ttft_seconds", "decode_seconds", "target_seconds", "draft_seconds", "cpu_seconds"}

def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        return compose("config", overrides=BRIEF + list(overrides))


def run(config, directory):
    config = copy.deepcopy(config)
    check(config)
    return job.run(config, directory, None, build)


def timeless(directory):
    return [_without_times(record.to_json()) for record in read_records(directory)]


def _without_times(content):
    """A record, a side of it or a repeat of that, at any depth."""
    if isinstance(content, dict):
        return {key: _without_times(value) for key, value in content.items() if key not in TIMES}
    return [_without_times(value) for value in content] if isinstance(content, list) else content
