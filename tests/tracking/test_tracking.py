"""What a run leaves behind: records that survive kills, a directory that refuses what would mix, W&B that never gets in the way."""
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from sides import record, side

from specexp.errors import UserError
from specexp.tracking.environment import describe_environment
from specexp.tracking.records import RunDirectory, read_records, write_whole

CONFIG = "method:\n  name: speculative\n  gamma: 4\nseed: 1\ntracker:\n  mode: auto\n"


def made(name, **values):
    return record(name, side(2, **values))


def line(name):
    return json.dumps(made(name).to_json()).encode()


def filled(path, count=3, config=CONFIG):
    with RunDirectory(path, config) as run:
        for i in range(count):
            run.append(made(str(i), text="é\u2028\nx"))
    return path / "records.jsonl"


def test_records_are_on_disk_one_line_each_as_they_are_made(tmp_path):
    with RunDirectory(tmp_path / "new" / "run", CONFIG) as run:
        run.append(made("a", text="two\nlines\u2028", nll_sum=float("nan"), entropies=[float("inf"), 1.5]))
        lines = (tmp_path / "new" / "run" / "records.jsonl").read_text().splitlines()
        whole = made("a", text="two\nlines\u2028", nll_sum=None, entropies=[None, 1.5])
        assert len(lines) == 1 and json.loads(lines[0]) == json.loads(json.dumps(whole.to_json()))
        run.append(made("b"))
    assert [r.id for r in read_records(tmp_path / "new" / "run")] == ["a", "b"]
    assert (tmp_path / "new" / "run" / "config.yaml").read_text() == CONFIG


def test_the_same_configuration_goes_on_where_it_stopped(tmp_path):
    filled(tmp_path)
    with RunDirectory(tmp_path, CONFIG) as run:
        assert [r.id for r in run.existing()] == ["0", "1", "2"]
        run.append(made("3"))
    assert [r.id for r in read_records(tmp_path)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("rest", [b'{"id": "9", "text": "cut of', b"{", b"\xc3", b'{"id": "9"'])
def test_a_line_cut_short_by_a_kill_is_dropped_and_the_file_mended(tmp_path, rest):
    file = filled(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole + rest)
    assert len(read_records(tmp_path)) == 3
    assert file.read_bytes() == whole + rest  # reading alone repairs nothing
    with RunDirectory(tmp_path, CONFIG) as run:
        assert len(run.existing()) == 3
        run.append(made("3"))
    assert file.read_bytes() == whole + line("3") + b"\n"


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    file = filled(tmp_path)
    file.write_bytes(file.read_bytes() + line("3"))
    with RunDirectory(tmp_path, CONFIG) as run:
        run.append(made("4"))
    assert [r.id for r in read_records(tmp_path)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("broken", [b"not json", b"[1, 2]", b'{"id": "1", "te', b"\xff\xfe"])
def test_a_malformed_line_in_the_middle_is_refused_by_file_and_line(tmp_path, broken):
    file = filled(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + broken + b"\n" + lines[2])
    for read in (lambda: read_records(tmp_path), lambda: RunDirectory(tmp_path, CONFIG).__enter__()):
        with pytest.raises(UserError, match=r"records\.jsonl, line 2 "):
            read()


def test_another_configuration_is_refused_naming_the_keys(tmp_path):
    file = filled(tmp_path)
    before = file.read_bytes()
    other = CONFIG.replace("gamma: 4", "gamma: 8").replace("seed: 1", "seed: 2")
    with pytest.raises(UserError, match=r"method\.gamma was 4, now 8; seed was 1, now 2"), RunDirectory(tmp_path, other):
        pass
    with pytest.raises(UserError, match=r"extra was '\(absent\)', now 1"), RunDirectory(tmp_path, CONFIG + "extra: 1\n"):
        pass
    with pytest.raises(UserError, match=r"seed was 1, now True"), RunDirectory(tmp_path, CONFIG.replace("seed: 1", "seed: true")):
        pass
    assert (file.read_bytes(), (tmp_path / "config.yaml").read_text()) == (before, CONFIG)


def test_excluded_keys_and_layout_may_differ(tmp_path):
    filled(tmp_path)
    other = "# the same\nseed: 1\ntracker:\n  mode: offline\n  name: x\ntrackers: 3\nmethod: {gamma: 4, name: speculative}\n"
    with pytest.raises(UserError, match="trackers") as refusal, RunDirectory(tmp_path, other, exclude=("tracker",)):
        pass
    assert "mode" not in str(refusal.value)
    with RunDirectory(tmp_path, other, exclude=("tracker", "trackers")) as run:
        assert len(run.existing()) == 3


def test_a_directory_without_records_takes_any_configuration(tmp_path):
    filled(tmp_path, count=0)
    filled(tmp_path, count=1, config="seed: 9\n")
    assert (tmp_path / "config.yaml").read_text() == "seed: 9\n"


def test_records_without_a_readable_configuration_are_refused(tmp_path):
    filled(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not readable YAML"), RunDirectory(tmp_path, CONFIG):
        pass
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"no config\.yaml"), RunDirectory(tmp_path, CONFIG):
        pass


def test_two_runs_never_share_a_directory(tmp_path):
    with RunDirectory(tmp_path, CONFIG) as run:
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), RunDirectory(tmp_path, CONFIG):
            pass
        run.append(made("a"))
    with RunDirectory(tmp_path, CONFIG) as run:
        assert len(run.existing()) == 1


def test_a_killed_run_leaves_its_records_and_frees_the_directory(tmp_path):
    writer = textwrap.dedent("""
        import sys, time
        from specexp.figures.record import Record, Repeat, SideRecord
        from specexp.tracking.records import RunDirectory
        side = SideRecord((Repeat(2, 1, 1, 0, 0.1, 0.1),), "a", "eos", [5, 6])
        with RunDirectory(sys.argv[1], "seed: 1\\n") as run:
            for i in range(5):
                run.append(Record(str(i), 0, "p", ["method"], {"method": side}))
            print("written", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", writer, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid}"), RunDirectory(tmp_path, "seed: 1\n"):
            pass
        process.send_signal(signal.SIGKILL)
    with RunDirectory(tmp_path, "seed: 1\n") as run:
        assert len(run.existing()) == 5


def test_an_unwritable_directory_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match=r"cannot write to the run directory .*hydra\.run\.dir"), RunDirectory(path, CONFIG):
            pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path):
    filled(tmp_path, count=0)
    (tmp_path / "records.jsonl").unlink()
    with RunDirectory(tmp_path, CONFIG) as run:
        run._stream.close()
        with open("/dev/full", "ab", buffering=0) as run._stream, pytest.raises(UserError, match="No space left"):
            run.append(made("a"))


def test_a_file_that_cannot_be_replaced_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", tmp_path / "nowhere" / "x.json"):
        with pytest.raises(UserError, match=r"cannot write .*x\.json .*hydra\.run\.dir"):
            write_whole(path, "{}")


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    filled(tmp_path)
    assert "is on a file system without locks" in caplog.text and len(read_records(tmp_path)) == 3


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no records\.jsonl"):
        read_records(tmp_path)


def test_summary_is_flat_whole_and_without_nan(tmp_path):
    with RunDirectory(tmp_path, CONFIG) as run:
        run.write_summary({"speedup": 1.5, "alpha": float("nan"), "lossless": True, "name": "x"})
        with pytest.raises(TypeError, match="histogram"):
            run.write_summary({"histogram": [1, 2]})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"speedup": 1.5, "alpha": None, "lossless": True, "name": "x"}
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_samples_are_one_file_per_side(tmp_path):
    with RunDirectory(tmp_path, CONFIG) as run:
        run.write_samples([{"task_id": "a/0", "completion": "x"}, {"task_id": "a/1", "completion": "y"}], [])
    assert [json.loads(line)["task_id"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == ["a/0", "a/1"]
    assert not (tmp_path / "baseline_samples.jsonl").exists()


def test_a_resumed_run_keeps_the_environment_of_its_earlier_sessions(tmp_path):
    with RunDirectory(tmp_path, CONFIG) as run:
        for load in (1, 2, 3):
            run.write_environment({"load": load})
    assert json.loads((tmp_path / "environment.json").read_text()) == {"load": 3, "earlier_sessions": [{"load": 1}, {"load": 2}]}


def test_environment_is_json_and_the_callers_facts_win(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = json.loads(json.dumps(describe_environment({"dtype": "float32", "command": "mine"})))
    assert (found["dtype"], found["command"], found["variables"]["OMP_NUM_THREADS"]) == ("float32", "mine", "2")
    assert found["versions"]["wandb"] and found["cpu"]["usable_cores"] >= 1 and len(found["load_average"]) == 3


def test_environment_tells_the_card_without_importing_torch(monkeypatch):
    class RefusalError(Exception):
        pass

    def refuse(index):
        raise RefusalError

    properties = types.SimpleNamespace(name="card", total_memory=9, major=9, minor=0, multi_processor_count=132)
    cuda = types.SimpleNamespace(device_count=lambda: 1, get_device_properties=lambda i: properties, clock_rate=lambda i: 1980,
                                 temperature=lambda i: 40, power_draw=lambda i: 90_000)
    torch = types.SimpleNamespace(get_num_threads=lambda: 2, get_num_interop_threads=lambda: 1,
                                  get_float32_matmul_precision=lambda: "highest",
                                  backends=types.SimpleNamespace(cpu=types.SimpleNamespace(get_cpu_capability=lambda: "AVX2")),
                                  version=types.SimpleNamespace(cuda="13.0"), cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "pynvml", types.SimpleNamespace(NVMLError=RefusalError))
    assert describe_environment({})["cards"] == [{"name": "card", "memory_bytes": 9, "capability": "9.0", "multiprocessors": 132,
                                                  "clock_mhz": 1980, "temperature_c": 40, "power_mw": 90_000}]
    cuda.clock_rate = refuse
    assert "clock_mhz" not in describe_environment({})["cards"][0]
    monkeypatch.delitem(sys.modules, "torch")
    assert "threads" not in describe_environment({}) and "torch" not in sys.modules
