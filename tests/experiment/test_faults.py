"""Faults: after each, the same command ends with exactly the records of an undisturbed run, or one sentence says what to do.

The fast ones fail inside this process; the slow ones are real processes that are killed, starved of disk, or started twice.
"""

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kills import RUN_ROUNDS, SWEEP_ROUNDS
from omegaconf import OmegaConf
from running import composed, run, timeless
from tiers import tiered

import specexp
from specexp.cli.check import check as check_configuration
from specexp.errors import UserError
from specexp.figures.record import Record
from specexp.models import loading
from specexp.tracking.records import RunDirectory, read_records

SHAPE = ["tracker=none", "threads=1", "warmup=1", "dataset.limit=6", "max_new_tokens=24"]
SWEEP = ["-m", "method.gamma=1,3", "dataset.limit=2", "tracker=none", "threads=1", "warmup=1", "max_new_tokens=24"]


@pytest.fixture(scope="module")
def config():
    return composed()


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    run(config, directory)
    return directory


@pytest.fixture(scope="module")
def undisturbed(whole):
    return timeless(whole)


def sampled(config, temperature):
    config = copy.deepcopy(config)
    config.sampling.temperature = temperature
    return config


def refused(config, directory, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        run(config, directory)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


# ---------------------------------------------------------------- models that fail
def broken(monkeypatch, key, output):
    """The pair's model of this role computes `output(logits)`."""
    load, models = loading.load_model, {}

    def load_broken(spec, asked="model_pair.target"):
        model = load(spec, asked)
        if spec.name != f"asset:tiny/{key}":
            return model
        if key not in models:
            models[key] = copy.deepcopy(model)
            models[key].lm_head.register_forward_hook(lambda _module, _inputs, logits: output(logits))
        return models[key]

    monkeypatch.setattr(loading, "load_model", load_broken)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("key", ["target", "draft"])
def test_a_model_that_computes_nan_is_refused_before_anything_is_timed(config, tmp_path, monkeypatch, key, temperature):
    with monkeypatch.context() as patch:
        broken(patch, key, lambda logits: logits * float("nan"))
        refused(sampled(config, temperature), tmp_path, rf"the {key} model \(.*{key}\) computes NaN for the first prompt in float32: .*dtype=")
    assert read_records(tmp_path) == []


@pytest.mark.parametrize("temperature", tiered([0.0, 1.0], [0.0]))
def test_a_model_that_computes_nan_later_loses_nothing(config, tmp_path, monkeypatch, undisturbed, temperature):
    """From the first pass behind the first record on."""
    config, append, recorded = sampled(config, temperature), RunDirectory.append, []
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append", lambda self, record: recorded.append(append(self, record)))
        broken(patch, "target", lambda logits: logits * float("nan") if recorded else logits)
        refused(config, tmp_path, "the target model .* computes NaN for a text that it wrote")
    kept = timeless(tmp_path)
    assert len(kept) == 1
    run(config, tmp_path)
    assert len(timeless(tmp_path)) == 2 and timeless(tmp_path)[0] == kept[0]
    assert temperature or timeless(tmp_path) == undisturbed


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0"), MemoryError()])
def test_out_of_memory_in_the_middle_loses_nothing(config, tmp_path, monkeypatch, undisturbed, error):
    from specexp.experiment.experiment import Experiment

    record = Experiment._record

    def full(self, task, *rest):
        if task.example.id == undisturbed[1]["id"]:
            raise error
        return record(self, task, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "_record", full)
        refused(config, tmp_path, r"out of memory \((CUDA out of memory. Tried to allocate 20.00 MiB.|MemoryError)\); lower max_new_tokens=8")
    assert timeless(tmp_path) == undisturbed[:1]
    run(config, tmp_path)
    assert timeless(tmp_path) == undisturbed


def test_out_of_memory_on_the_cpu_is_told_and_other_errors_are_not_hidden():
    from specexp.models.loading import memory_watched

    with pytest.raises(UserError, match=r"out of memory \(.*DefaultCPUAllocator.*; buy some\."), memory_watched("buy some"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size of tensor"), memory_watched("buy some"):
        torch.zeros(2) + torch.zeros(3)


def test_a_sandbox_that_stops_working_loses_nothing(config, tmp_path, monkeypatch, undisturbed):
    from specexp.scoring import sandbox

    append, check, recorded = RunDirectory.append, sandbox._check, []

    def failing(*arguments):
        if recorded:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return check(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append", lambda self, record: recorded.append(append(self, record)))
        patch.setattr(sandbox, "_check", failing)
        refused(config, tmp_path, r"the sandbox \(level \w+\) stopped working \(.*unavailable\)")
    assert timeless(tmp_path) == undisturbed[:1]
    run(config, tmp_path)
    assert timeless(tmp_path) == undisturbed


# ---------------------------------------------------------------- files that are not what they were
def line(name):
    """A record as few bytes as an older run may have written."""
    side = {"token_ids": [5], "text": "é\n", "finish": "eos", "rounds": [], "origins": ["target"], "ttft_seconds": 0.5, "decode_seconds": 0.5}
    return json.dumps({"id": name, "sample": 0, "prompt": "é\n", "order": [], "method": side}).encode() + b"\n"


def test_a_file_cut_at_any_byte_is_mended(tmp_path):
    lines = [line(str(i)) for i in range(3)]
    records = [Record.from_json(json.loads(each)) for each in lines]
    for cut in range(len(b"".join(lines)) + 1):
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / "records.jsonl").write_bytes(b"".join(lines)[:cut])
        (directory / "config.yaml").write_text("a: 1\n")
        with RunDirectory(directory, "a: 1\n") as mended:
            kept = len(mended.existing())
            for record in records[kept:]:
                mended.append(record)
        assert kept == sum(cut >= len(b"".join(lines[: i + 1])) - 1 for i in range(3))  # a newline may be missing
        assert (directory / "records.jsonl").read_bytes().startswith(b"".join(lines[:kept])) and read_records(directory) == records


def test_the_zeros_that_a_power_cut_leaves_are_mended(tmp_path):
    (tmp_path / "records.jsonl").write_bytes(line("0") + bytes(512))
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with RunDirectory(tmp_path, "a: 1\n") as mended:
        assert [record.id for record in mended.existing()] == ["0"]
    assert (tmp_path / "records.jsonl").read_bytes() == line("0")


@pytest.mark.parametrize(("edit", "sentence"), [
    (lambda lines: ["{}", *lines], "record 1 lacks id: mend or delete that line"),
    (lambda lines: [lines[0], lines[1].replace('"ttft_seconds"', '"ttft"')], "record 2 lacks ttft_seconds in 'baseline': mend"),
    (lambda lines: [lines[0].replace('"sample": 0', '"sample": "0"')], "record 1 has sample of a wrong kind: mend"),
    (lambda lines: [lines[0], lines[0]], "record 2 is the second of MicroEval/.*: delete one of the two"),
    (lambda lines: [lines[0], "x", lines[1]], "line 2 is not a JSON object"),
    (lambda lines: [lines[0].replace('"prompt": "', '"prompt": "x')], "whose prompt the data set no longer has"),
])
def test_records_that_somebody_changed_are_refused(config, tmp_path, whole, edit, sentence):
    checked = copy.deepcopy(config)
    check_configuration(checked)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(checked, resolve=True))
    (tmp_path / "records.jsonl").write_text("\n".join(edit((whole / "records.jsonl").read_text().splitlines())) + "\n")
    refused(config, tmp_path, sentence)


# ---------------------------------------------------------------- real processes
def command(*arguments):
    return [sys.executable, "-m", "specexp", *arguments]


def started(directory, *arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(Path(specexp.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(*arguments), cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def completed(directory, *arguments):
    """(exit code, standard error without log lines)"""
    process = started(directory, *arguments)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def records_below(directory):
    return {str(file.parent.relative_to(directory)): timeless(file.parent) for file in sorted(directory.rglob("records.jsonl"))}


def begins_like(directory, whole):
    """Whatever is there after a kill is a beginning of what should be there, but for a last line cut short."""
    for place, records in records_below(directory).items():
        assert records == whole[place][: len(records)]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "place", "wanted"), [(SHAPE, "hydra.run.dir", RUN_ROUNDS), (SWEEP, "hydra.sweep.dir", SWEEP_ROUNDS)], ids=["run", "sweep"])
def test_sigkill_at_random_points(tmp_path, arguments, place, wanted):
    began = time.monotonic()
    assert completed(tmp_path, *arguments, f"{place}=whole")[0] == 0
    duration, whole = time.monotonic() - began, records_below(tmp_path / "whole")
    draws, kills, number = random.Random(0), 0, 0
    while kills < wanted:
        target = tmp_path / str(number)
        process = started(tmp_path, *arguments, f"{place}={target}")
        try:
            process.communicate(timeout=duration * draws.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0 and records_below(target) == whole
            number += 1
        begins_like(target, whole)
    code, errors = completed(tmp_path, *arguments, f"{place}={target}")
    assert code == 0, errors
    assert records_below(target) == whole
    assert names_below(target) == names_below(tmp_path / "whole")  # nothing is missing, nothing half-written is left
    for file in target.rglob("*.json"):
        json.loads(file.read_text())


def names_below(directory):
    return {str(file.relative_to(directory)) for file in directory.rglob("*")}


FILLED = """
mount -t tmpfs -o size={size}k tmpfs full
"$@" && exit 90
mount -o remount,size=64m full
cp -r full before
"$@" || exit 91
cp -r full after
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [12, 40, 52, 64])
def test_a_full_disk(tmp_path, size):
    """A file system of so many KiB, full before, while and after records are written; then room is made and the command repeated."""
    own_mounts = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own_mounts, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("needs a file system of its own (unshare, mount)")
    (tmp_path / "full").mkdir()
    assert completed(tmp_path, *SHAPE, "hydra.run.dir=whole")[0] == 0
    script = [*own_mounts, "sh", "-c", FILLED.format(size=size), "sh", *command(*SHAPE, "hydra.run.dir=full")]
    environment = os.environ | {"PYTHONPATH": str(Path(specexp.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    [told] = [line for line in ended.stderr.splitlines() if line.startswith("specexp: ")]
    assert "No space left on device" in told and "hydra.run.dir=DIR" in told and "Traceback" not in ended.stderr
    whole = records_below(tmp_path / "whole")
    begins_like(tmp_path / "before", whole)
    assert records_below(tmp_path / "after") == whole and names_below(tmp_path / "after") == names_below(tmp_path / "whole")


@pytest.mark.slow
def test_two_runs_in_one_directory(tmp_path):
    assert completed(tmp_path, *SHAPE, "hydra.run.dir=whole")[0] == 0
    first = started(tmp_path, *SHAPE, "hydra.run.dir=run")
    wait_for(lambda: (tmp_path / "run" / "records.jsonl").exists(), first)
    first.send_signal(signal.SIGSTOP)
    code, errors = completed(tmp_path, *SHAPE, "hydra.run.dir=run")
    first.send_signal(signal.SIGCONT)
    assert code == 1 and f"run is in use by process {first.pid}; wait for it or choose another hydra.run.dir=DIR." in errors and errors.count("\n") == 1
    first.communicate()
    assert first.returncode == 0 and records_below(tmp_path / "run") == records_below(tmp_path / "whole")


@pytest.mark.slow
def test_a_wandb_whose_process_is_killed(tmp_path):
    shape = [word for word in SHAPE if word != "tracker=none"]
    assert completed(tmp_path, *shape, "tracker=none", "hydra.run.dir=whole")[0] == 0
    process = started(tmp_path, *shape, "tracker.mode=offline", "hydra.run.dir=run")
    wait_for(lambda: wandb_below(process.pid), process)
    for child in wandb_below(process.pid):
        os.kill(child, signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in errors and "W&B failed" in output + errors
    assert records_below(tmp_path / "run") == records_below(tmp_path / "whole") and (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_an_interrupt_is_told_and_gone_on_from(tmp_path):
    assert completed(tmp_path, *SHAPE, "hydra.run.dir=whole")[0] == 0
    process = started(tmp_path, *SHAPE, "hydra.run.dir=run")
    wait_for(lambda: (tmp_path / "run" / "records.jsonl").exists() and read_records(tmp_path / "run"), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors and f"hydra.run.dir={tmp_path / 'run'} goes on" in errors
    assert completed(tmp_path, *SHAPE, "hydra.run.dir=run")[0] == 0
    assert records_below(tmp_path / "run") == records_below(tmp_path / "whole")


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def wandb_below(parent):
    children = Path(f"/proc/{parent}/task/{parent}/children")
    found = children.read_text().split() if children.exists() else []
    return [int(child) for child in found if "wandb-core" in command_of(child)]


def command_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except FileNotFoundError:  # gone between two looks
        return ""
