"""Reports of many runs from what they left on disk: table in four formats, files, page, comparison; in few seconds and without torch."""

import copy
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml
from report_runs import records, side, write_failed, write_overrides, write_run
from sides import alone, changed

from specexp.cli.messages import conf_directory
from specexp.errors import UserError
from specexp.figures.acceptance import spans
from specexp.report import tables
from specexp.report.__main__ import COMMANDS, main
from specexp.report.columns import visible
from specexp.report.formats import escaped, page
from specexp.report.rows import make_rows, notes, settings_of
from specexp.report.runs import find_runs


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three draft lengths, a job that failed, one that was killed."""
    place = tmp_path_factory.mktemp("sweep")
    for gamma in (2, 4, 8):
        write_run(place / f"method.gamma={gamma}", gamma, made=records(gamma, 6))
    write_failed(place / "method.gamma=99", error="CUDA out of memory | 50% of it & more_")
    killed = write_run(place / "method.gamma=16", 16)
    (killed / "summary.json").unlink()
    return place


def told(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_the_fastest_first_and_every_job_in_it(sweep, capsys):
    lines = told(capsys, sweep).splitlines()
    labels = [line.split("|")[1].strip() for line in lines[2:8]]
    expected = ["gamma=2", "gamma=4", "gamma=8", "baseline", "gamma=16", "gamma=99"]
    assert [label.removeprefix("speculative ") for label in labels] == [*expected[:3], "baseline (mean of 3 runs)", *expected[4:]]
    assert "method.gamma=99 failed: CUDA out of memory" in lines[-3] and "method.gamma=16 is not finished" in lines[-1]
    assert re.search(r"speculative gamma=2 \| 8 \| \d+\.\d ± \d+\.\d \| \d\.\d\d \| \d\.\d\d to \d\.\d\d", "\n".join(lines))


def test_figures_of_a_row_are_the_summarys(sweep, capsys):
    rows = {row["label"]: row for row in json.loads(told(capsys, sweep, "--format", "json"))["results"]}
    summary = json.loads((sweep / "method.gamma=4" / "summary.json").read_text())
    row = rows["speculative gamma=4"]
    assert {key: row[key] for key in summary} == summary and row["method.gamma"] == 4 and row["state"] == "finished"
    base = rows["baseline (mean of 3 runs)"]
    assert base["speedup"] == 1.0 and base["tpot"] == pytest.approx(summary["baseline_tpot"])


def test_json_ends_in_what_is_best(sweep, capsys):
    found = json.loads(told(capsys, sweep, "--format", "json"))["summary"]
    assert found["best_method"] == "speculative gamma=2" and found["best_speedup"] > 1 and found["baseline_throughput"] == pytest.approx(10)


def test_csv_holds_everything_unrounded(sweep, capsys):
    rows = list(csv.DictReader(io.StringIO(told(capsys, sweep, "--format", "csv"))))
    found = next(row for row in rows if row["label"] == "speculative gamma=8")
    assert float(found["speedup"]) == json.loads((sweep / "method.gamma=8" / "summary.json").read_text())["speedup"]
    assert [row["error"] for row in rows if row["state"] == "failed"] == ["CUDA out of memory | 50% of it & more_"]


def test_columns_and_order_are_the_users(sweep, capsys):
    lines = told(capsys, sweep, "--columns", "method.gamma,speedup,alpha", "--sort=-method.gamma").splitlines()
    assert lines[0] == "| method.gamma | speedup | alpha |"
    assert [line.split("|")[1].strip() for line in lines[2:7]] == ["99", "16", "8", "4", "2"]
    with pytest.raises(SystemExit, match="no run has a figure speed"):
        main([str(sweep), "--columns", "speed"])


def test_latex_is_what_booktabs_wants(sweep, capsys):
    text = told(capsys, sweep, "--format", "latex")
    assert text.count(r"\textbf{") == 1 and r"\toprule" in text and r"$\pm$" in text and r"failed" in text
    body = re.search(r"\\midrule\n(.*)\\bottomrule", text, re.S)[1].splitlines()
    head = text.split(r"\toprule" + "\n")[1].splitlines()[0]
    assert len(body) == 6 and {line.count(" & ") for line in body} == {head.count(" & ")}
    assert not re.search(r"(?<!\\)[%_#]", "\n".join(body))


def test_latex_escapes_what_means_something_there():
    assert escaped("50% of a_b & c ±1 γ ☃") == r"50\% of a\_b \& c $\pm$1 $\gamma$ ?"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(sweep, capsys, tmp_path):
    text = told(capsys, sweep, "--format", "latex")
    (tmp_path / "t.tex").write_text("\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + text + "\\end{document}\n")
    ended = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0 and (tmp_path / "t.pdf").exists(), ended.stdout[-2000:]


def test_labels_name_what_differs_among_runs_of_a_method(tmp_path):
    write_run(tmp_path / "a", 4, settings={"sampling": {"temperature": 0.0}})
    write_run(tmp_path / "b", 4, settings={"sampling": {"temperature": 0.8}})
    write_run(tmp_path / "c", 6, "nasd", settings={"sampling": {"temperature": 0.0}})
    labels = {row["label"] for row in make_rows(find_runs([tmp_path])) if row["method"] != "baseline"}
    assert labels == {"speculative temperature=0.0", "speculative temperature=0.8", "nasd temperature=0.0"}


def test_baselines_of_other_settings_are_not_averaged(tmp_path):
    for name, temperature in (("a", 0.0), ("b", 0.8)):
        write_run(tmp_path / name, 4, settings={"sampling": {"temperature": temperature}})
    labels = [row["label"] for row in make_rows(find_runs([tmp_path])) if row["method"] == "baseline"]
    assert labels == ["baseline temperature=0.0", "baseline temperature=0.8"]


def baselines(place):
    return [row for row in make_rows(find_runs([place])) if row["method"] == "baseline"]


@pytest.mark.parametrize(("settings", "labels"), [
    ([{"model_pair": {"name": "tiny", "target": {"name": name}}} for name in ("one", "two")], ["baseline target.name=one", "baseline target.name=two"]),
    ([{"model_pair": {"name": "tiny", "target": {"name": "m", "revision": name}}} for name in ("r1", "r2")], ["baseline revision=r1", "baseline revision=r2"]),
    ([{"dataset": {"name": "microeval", "limit": limit}} for limit in (4, 6)], ["baseline limit=4", "baseline limit=6"]),
    ([{"dataset": {"name": "prompts", "path": path}} for path in ("a.txt", "b.txt")], ["baseline path=a.txt", "baseline path=b.txt"]),
    ([{"part": part} for part in ("train", "test")], ["baseline part=test", "baseline part=train"]),
    ([{"dtype": dtype} for dtype in ("float32", "bfloat16")], ["baseline dtype=bfloat16", "baseline dtype=float32"]),
    ([{"max_new_tokens": count} for count in (8, 16)], ["baseline", "baseline"]),  # a column tells it
    ([{"cache": {"_target_": f"specexp.runners.runner.{name}"}} for name in ("ModelRunner", "StatelessRunner")], ["baseline", "baseline"]),
    ([{"batch": size} for size in (1, 4)], ["baseline batch=1", "baseline batch=4"]),
    ([{"cache": {"_target_": "specexp.runners.sink.SinkRunner", "max_length": length}} for length in (64, 128)], ["baseline max_length=128", "baseline max_length=64"]),
    ([{"sampling": {"temperature": 0.8}, "seed": seed} for seed in (0, 1)], ["baseline seed=0", "baseline seed=1"]),
    ([{"baseline": {"url": url}} for url in ("http://a", "http://b")], ["baseline url=http://a", "baseline url=http://b"]),
])  # fmt: skip
def test_baselines_that_are_not_told_equal_by_facts_are_not_averaged(tmp_path, settings, labels):
    for index, settings_of_run in enumerate(settings):
        write_run(tmp_path / f"{index}", settings=settings_of_run)
    assert sorted(row["label"] for row in baselines(tmp_path)) == labels


@pytest.mark.parametrize("settings", [
    [{"model_pair": {"name": "tiny", "target": {"name": "m"}, "draft": {"name": name}}} for name in ("one", "two")],
    [{"seed": seed} for seed in (0, 1)],                                            # greedy: the same texts
    [{"warmup": count, "tracker": {"project": f"{count}"}} for count in (1, 2)],
    [{"method": {"name": "speculative", "gamma": gamma}, "repeats": gamma} for gamma in (2, 4)],
])  # fmt: skip
def test_baselines_that_are_the_same_are_averaged_whatever_else_differs(tmp_path, settings):
    for index, settings_of_run in enumerate(settings):
        write_run(tmp_path / f"{index}", settings=settings_of_run, model_pair=settings_of_run.get("model_pair", {}).get("name", "tiny"))
    assert [row["label"] for row in baselines(tmp_path)] == ["baseline (mean of 2 runs)"]


def test_machines_weights_and_prompts_are_facts_too(tmp_path):
    for name, facts in (("a", {"device": "cuda:0", "cards": ["H200"]}), ("b", {"device": "cuda:0", "cards": ["A100"]}), ("c", {"device": "cpu"})):
        (write_run(tmp_path / name) / "environment.json").write_text(json.dumps(facts))
    assert len(baselines(tmp_path)) == 3
    for name, facts in (("a", {"weights_digest": "1", "prompts_digest": "1"}), ("b", {"weights_digest": "2", "prompts_digest": "1"}),
                        ("c", {"weights_digest": "1", "prompts_digest": "2"}), ("d", {"weights_digest": "1", "prompts_digest": "1"})):
        (write_run(tmp_path / "digests" / name) / "environment.json").write_text(json.dumps(facts))
    assert sorted(row["label"] for row in baselines(tmp_path / "digests")) == [
        "baseline prompts_digest=1 weights_digest=1 (mean of 2 runs)", "baseline prompts_digest=1 weights_digest=2", "baseline prompts_digest=2 weights_digest=1",
    ]  # fmt: skip
    write_run(tmp_path / "more" / "d", weights="standin")
    write_run(tmp_path / "more" / "e")
    write_run(tmp_path / "more" / "f", made=records(4, 3))  # as when a server refused a request for good
    assert len(baselines(tmp_path / "more")) == 3


def test_two_loops_called_baseline_are_two_baselines(tmp_path):
    for name in ("autoregressive", "hf_generate"):
        eager = {"_target_": f"specexp.methods.{name}", "name": name}
        write_run(tmp_path / name, settings={"baselines": {"eager": eager, "further": {"name": name}}})
    assert len(baselines(tmp_path)) == 2
    for name in ("one", "two"):
        eager = {"_target_": "specexp.methods.autoregressive", "name": "autoregressive"}
        write_run(tmp_path / "same" / name, settings={"baselines": {"eager": eager, name: {"name": "nasd"}}})
    assert [row["label"] for row in baselines(tmp_path / "same")] == ["baseline (mean of 2 runs)"]


def test_runs_of_which_no_configuration_is_left_have_baselines_of_their_own(tmp_path):
    for name in "ab":
        (write_run(tmp_path / name) / "config.yaml").unlink()
    assert [row["label"] for row in baselines(tmp_path)] == ["baseline run=a", "baseline run=b"]


def test_a_part_chosen_on_the_command_line_is_in_the_label(tmp_path):
    write_run(tmp_path / "a", overrides={"verifier@method.verifier": "lenient"})
    write_run(tmp_path / "b", overrides={"verifier@method.verifier": "typical"})
    labels = {row["label"] for row in make_rows(find_runs([tmp_path]))}
    assert {"speculative verifier=lenient", "speculative verifier=typical"} <= labels


def test_of_a_configuration_the_trees_of_parts_are_not_reported(tmp_path):
    """As an older version wrote them: a decoder below the method, runners and baselines beside it."""
    tree = {"target": {"model": {"name": "x"}}, "drafter": {"policy": {"gamma": 4}}}
    own = {"decoder": tree, "gamma": 4, "name": "speculative"}
    write_run(tmp_path / "a", settings={"baselines": {"eager": {"decoder": copy.deepcopy(tree)}}, "runners": {"target": {"cache": None}}, "method": own, "seed": 7})
    [run] = find_runs([tmp_path])
    reported = settings_of(run)
    assert reported["method.gamma"] == 4 and reported["seed"] == 7 and run.config["model_pair"] == {"name": "tiny"}
    assert not [key for key in reported if key.startswith(("runners", "baselines", "method.decoder"))]


def test_what_is_unusual_gets_a_column(tmp_path):
    write_run(tmp_path / "a")
    heads = {column.head for column in visible(make_rows(find_runs([tmp_path])))}
    assert "speedup" in heads and not heads & {"lossless", "state", "weights", "pair", "compress", "mem MB"}
    write_run(tmp_path / "b", lossless=False, weights="standin", model_pair="other")
    assert {"lossless", "weights", "pair"} <= {column.head for column in visible(make_rows(find_runs([tmp_path])))}


def test_published_figures_stand_beside_and_say_so(tmp_path, capsys):
    table = {"source": "A study", "setup": "another card.", "faults": "no synchronisation.",
             "rows": [{"method": "CSD", "model_pair": "tiny", "dataset": "microeval", "output_tps_per_user": 8.5, "speedup": 0.53}]}
    for name in "ab":
        write_run(tmp_path / name, settings={"published": table})
    text = told(capsys, tmp_path)
    [line] = [line for line in text.splitlines() if "CSD [published]" in line]
    assert "| 8.5 |" in line and "| 0.53 |" in line and "| published |" in line
    assert text.count("[published] A study. Setup: another card. Known faults: no synchronisation.") == 1


def test_a_report_writes_every_file(sweep, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    told(capsys, sweep, "--out", tmp_path / "out", "--s2")
    names = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    figures = {f"figures/{name}.{ending}" for name in ("throughput", "gamma", "acceptance", "histogram", "pareto") for ending in ("png", "pdf")}
    assert {"sweep.csv", "sweep.json", "sweep.md", "sweep.tex", "sweep.html", "paper.csv", "spec_decode_all.json"} | figures <= names
    assert (tmp_path / "out" / "figures" / "gamma.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "figures" / "gamma.pdf").read_bytes().startswith(b"%PDF")


def test_dynatrees_own_files_have_its_keys(sweep, tmp_path, capsys):
    told(capsys, sweep, "--out", tmp_path, "--s2")
    [entry, *_] = json.loads((tmp_path / "benchmark_comprehensive_results.json").read_text())
    wanted = """method target_tokens actual_tokens max_cache_len throughput_mean throughput_std ttft_mean ttft_std tpot_mean tpot_std
        total_time_mean total_time_std ppl_mean ppl_std acceptance_rate acceptance_with_bonus tokens_per_round total_rounds peak_memory_mb
        memory_growth_mb compression_count tokens_evicted num_samples"""
    assert set(wanted.split()) <= set(entry) and entry["ttft_mean"] == pytest.approx(10.0)
    assert entry["acceptance_rate"] == pytest.approx(1.0) and entry["acceptance_with_bonus"] == pytest.approx(1.5)  # gamma 2, two kept
    every = json.loads((tmp_path / "spec_decode_all.json").read_text())
    assert [result["K"] for result in every["results"]] == [2, 4, 8] and len(every["results"][0]["throughputs"]) == 6
    assert every["summary"]["best_speedup"] == max(result["speedup"] for result in every["results"])


def test_matplotlib_may_be_absent(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "specexp.report.figures", raising=False)
    main([str(sweep), "--out", str(tmp_path)])
    assert "no figures: matplotlib is not installed" in capsys.readouterr().err and (tmp_path / "sweep.html").exists()


def test_trees_and_cache_lengths_have_figures(tmp_path):
    figures = pytest.importorskip("specexp.report.figures")
    for depth in (2, 3):
        for branching in (1, 2):
            own = {"name": "threshold_tree", "depth": depth, "branching": branching, "threshold": 0.1}
            write_run(tmp_path / f"t{depth}{branching}", method="threshold_tree", settings={"method": own})
    for length in (64, 128):
        cache = {"_target_": "specexp.runners.sink.SinkRunner", "max_length": length}
        write_run(tmp_path / f"c{length}", settings={"cache": cache}, kv_bytes_target=length * 1000)
    rows = make_rows(find_runs([tmp_path]))
    assert figures.trees(rows).axes[0].get_title() == "threshold_tree, threshold 0.1" and len(figures.trees(rows).axes[0].texts) == 4
    memory = figures.cache_length(rows).axes[0].lines[0]
    assert list(memory.get_xdata()) == [64, 128] and list(memory.get_ydata()) == pytest.approx([64000 / 2**20, 128000 / 2**20])
    assert figures.gamma(rows) is None


@pytest.mark.parametrize("file", sorted((Path(conf_directory()) / "cache").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_cache_is_called_by_its_option(tmp_path, file):
    runner = resolve_name(yaml.safe_load(file.read_text())["_target_"])
    write_run(tmp_path / "run")
    for written in (runner.kind, runner.__name__):  # the second: as older runs wrote it
        (tmp_path / "run" / "environment.json").write_text(json.dumps({"cache": written}))
        [run] = find_runs([tmp_path / "run"])
        assert settings_of(run)["cache"] == file.stem


def test_curves_of_two_data_sets_stay_apart(tmp_path):
    figures = pytest.importorskip("specexp.report.figures")
    for data in ("one", "two"):
        write_run(tmp_path / data, dataset=data)
    rows = make_rows(find_runs([tmp_path]))
    for figure in (figures.acceptance(rows), figures.histogram(rows)):
        assert [line.get_label() for line in figure.axes[0].lines] == ["speculative, one", "speculative, two"]


def test_maps_of_two_pairs_stay_apart(tmp_path):
    figures = pytest.importorskip("specexp.report.figures")
    for pair in ("one", "two"):
        for depth in (2, 3):
            own = {"name": "tree", "depth": depth, "branching": 2}
            write_run(tmp_path / f"{pair}{depth}", method="tree", settings={"method": own, "model_pair": {"name": pair}}, model_pair=pair)
    rows = make_rows(find_runs([tmp_path]))
    assert [axis.get_title() for axis in figures.trees(rows).axes] == ["tree, one", "tree, two"]


def test_runs_of_one_label_are_all_drawn(tmp_path):
    figures = pytest.importorskip("specexp.report.figures")
    for name in "ab":
        write_run(tmp_path / name)
    assert len(figures.acceptance(make_rows(find_runs([tmp_path]))).axes[0].lines) == 2


def test_predicted_curve_passes_through_what_was_predicted_at_each_length():
    from specexp.decoding.theory import expected_tokens, predicted_speedup
    from specexp.figures.cost import predicted_curve

    curve = predicted_curve(0.8, 0.1, {2: 1.1, 6: 1.5})
    assert list(curve) == [2, 3, 4, 5, 6]
    assert curve[2] == pytest.approx(predicted_speedup(expected_tokens(0.8, 2), 2, 0.1, 1.1))
    assert curve[4] == pytest.approx(predicted_speedup(expected_tokens(0.8, 4), 4, 0.1, 1.3))


def test_the_page_is_one_file_and_escapes_what_models_write(tmp_path):
    evil = "</pre><script>alert(1)</script>"
    write_run(tmp_path / "a", made=[replace(record, prompt=evil) for record in records(4, text=evil)])
    runs = find_runs([tmp_path])
    html = page(runs, make_rows(runs), [], {})
    assert evil not in html and "&lt;script&gt;alert(1)" in html
    assert not re.search(r"""(src|href)=["'](?!data:)""", html) and "http" not in html


def test_texts_are_coloured_by_where_each_token_came_from():
    found = spans(side([[4, 2], [4, 1]], 1.0))
    assert [(span.style, span.text) for span in found] == [
        ("target", "def "), ("draft", "f(x):\n"), ("resample", "    return "), ("draft", "x < 1"), ("resample", " & "),
    ]  # fmt: skip
    cascade = spans(side([[2, 2]], 1.0, origins=["target", "draft:draft", "draft:max_gram", "bonus"]))
    assert [span.style for span in cascade] == ["target", "draft0", "draft1", "bonus"]


def test_records_of_older_runs_are_shown_without_colours():
    old = replace(side([[4, 2]], 1.0), ends=None)
    assert [(span.style, span.text) for span in spans(old)] == [("", old.text)]


def test_comparing_two_runs(tmp_path, capsys):
    write_run(tmp_path / "a", made=records(2, 20, lambda i: i % 2 == 0))
    write_run(tmp_path / "b", made=records(60, 24, lambda i: True))
    text = told(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert "20 examples" in text and "0 with A alone, 10 with B" in text.replace("\n", " ")
    assert "0.0020" in text  # McNemar, exact: 2 / 2^10
    assert "speedup" in text and "0.0001" in text


def test_runs_that_asked_other_prompts_under_the_same_ids_are_not_compared(tmp_path, capsys):
    write_run(tmp_path / "a", 4)
    write_run(tmp_path / "b", 4, made=[replace(record, prompt=record.prompt + "?") for record in records(4)])
    with pytest.raises(SystemExit, match="asked different prompts under the id p/0; compare runs on the same data set"):
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])


def test_comparing_a_run_with_its_baseline(tmp_path, capsys):
    write_run(tmp_path / "a")
    assert "throughput" in told(capsys, "compare", tmp_path / "a")
    write_run(tmp_path / "b", made=[replace(record, id="other") for record in records(4)])
    with pytest.raises(SystemExit, match="no example in common"):
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    (tmp_path / "b" / "records.jsonl").write_text("".join(json.dumps(alone(record).to_json()) + "\n" for record in records(4)))
    with pytest.raises(SystemExit, match="holds no baseline to compare with"):
        main(["compare", str(tmp_path / "b")])


@pytest.mark.parametrize(
    ("place", "words"),
    [("nothing", "is not a directory"), ("empty", "holds no run"), ("broken", "not a JSON object"), ("torn", "config.yaml is not readable YAML")],
)
def test_mistakes_end_in_a_sentence(tmp_path, place, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "summary.json").write_text("{")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text("{}")
    (tmp_path / "torn" / "config.yaml").write_text("seed: [")
    with pytest.raises(SystemExit, match=words):
        main([str(tmp_path / place)])


def test_a_job_that_wrote_nothing_is_found(tmp_path):
    write_overrides(tmp_path / "x", {"method": "csd", "method.leniency": 3})
    [run] = find_runs([tmp_path])
    assert (run.state, run.method, run.overrides["method.leniency"]) == ("unfinished", "csd", "3")


def test_no_command_needs_torch(sweep):
    program = f"""import sys
from importlib import import_module
from specexp.report.__main__ import COMMANDS, main
for place in COMMANDS.values(): import_module(place.partition(":")[0])
main([{str(sweep)!r}])
print([m for m in ("torch", "transformers", "wandb", "matplotlib", "jinja2") if m in sys.modules])"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_every_command_says_what_it_does(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0 and name in capsys.readouterr().out.replace("report [-h]", "table")


def test_a_directory_that_cannot_be_made(sweep, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out DIR"):
        tables.write([], [], tmp_path / "file" / "x")
    figures = pytest.importorskip("specexp.report.figures")
    with pytest.raises(UserError, match="cannot write .*throughput.pdf .*--out DIR"):
        figures._saved(figures.Figure(figsize=(1, 1)), tmp_path / "file" / "throughput")


def test_runs_of_few_prompts_have_no_interval_and_a_note_says_why(tmp_path, capsys):
    write_run(tmp_path / "a", made=records(4, 4), overrides={"method.gamma": 4})
    first = told(capsys, tmp_path)
    assert " to " not in first and "±" not in first and first.count("The speedup has no 95 % interval: that takes 5 prompts, and there are 4.") == 1
    write_run(tmp_path / "b", 6, made=records(6, 4))
    assert told(capsys, tmp_path).count("no 95 % interval") == 1
    write_run(tmp_path / "c", 8, made=records(8, 6))
    both = told(capsys, tmp_path)
    assert "a, b: The speedup has no 95 % interval" in both and both.count(" to ") == 1


@pytest.mark.parametrize("values", [
    {"decode_seconds": 0.0}, {"decode_seconds": 0.0, "ttft_seconds": 0.0}, {"token_ids": [5], "rounds": [], "origins": ["target"], "decode_seconds": 0.0},
    {"token_ids": [], "rounds": [], "origins": [], "decode_seconds": 0.0, "ttft_seconds": 0.0, "nll_count": 0, "nll_sum": 0.0, "target_forwards": 0},
    {"rounds": [], "first_tokens": 7, "decode_seconds": 0.0},
])  # fmt: skip
def test_no_table_and_no_figure_shows_what_is_no_number(tmp_path, capsys, values):
    """Zero seconds, one token, no token, a text in one piece; on both sides, on one, and without a baseline."""
    for name, names in (("both", ("method", "baseline")), ("one", ("method",)), ("base", ("baseline",))):
        write_run(tmp_path / name, made=[changed(record, *names, **values) for record in records(4, 6)])
    write_run(tmp_path / "alone", made=[changed(alone(record), "method", **values) for record in records(4, 6)])
    text = told(capsys, tmp_path, "--out", tmp_path / "out", "--s2")
    for name in ("both", "one", "base", "alone"):
        text += told(capsys, "explain", tmp_path / name) + told(capsys, "explain", tmp_path / name, "--json") + told(capsys, "ablation", tmp_path / name)
    for file in (tmp_path / "out").iterdir():
        text += file.read_text() if file.suffix in (".md", ".csv", ".json", ".tex") else ""
    assert not re.search(r"\b(nan|inf)\b", text, re.I)


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "arguments are required: DIR; python -m specexp.report --help"),
    (["DIR", "--formt", "csv"], "unrecognized arguments: --formt csv"),
    (["DIR", "--format", "word"], "invalid choice: 'word'"),
    (["compare"], "arguments are required: A; python -m specexp.report compare --help"),
    (["explain", "DIR", "--bandwidth", "fast"], "invalid float value: 'fast'"),
    (["tree"], "arguments are required: directory"), (["ablation"], "arguments are required: DIR"),
    (["sync"], "arguments are required: DIR"), (["wandb"], "arguments are required: DIR"),
])  # fmt: skip
def test_a_mistaken_command_line_is_one_sentence(sweep, arguments, words):
    ended = subprocess.run([sys.executable, "-m", "specexp.report", *(str(sweep) if a == "DIR" else a for a in arguments)], capture_output=True, text=True)
    [line] = ended.stderr.splitlines()
    assert ended.returncode == 1 and re.match("specexp.report: ", line) and words in line and not ended.stdout


def test_what_cannot_be_read_is_one_sentence(sweep, monkeypatch):
    def refuse(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("specexp.report.runs.os.walk", refuse)
    with pytest.raises(SystemExit, match=r"cannot read or write .*sweep.* \(Permission denied\)"):
        main([str(sweep)])


def test_an_interrupted_report_says_so(sweep, monkeypatch, capsys):
    def interrupt(place):
        raise KeyboardInterrupt

    monkeypatch.setattr("specexp.report.runs.os.walk", interrupt)
    with pytest.raises(SystemExit) as ended:
        main([str(sweep)])
    assert ended.value.code == 130 and "interrupted" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_ends_the_report_quietly(sweep):
    ended = subprocess.run(f"{sys.executable} -m specexp.report {sweep} --format json | head -c 1", shell=True, capture_output=True, text=True)
    assert ended.stdout == "{" and not ended.stderr


def test_help_and_tables_do_not_load_the_paired_tests(sweep):
    for command in ("specexp --help", f"specexp.report {sweep}"):
        ended = subprocess.run([sys.executable, "-X", "importtime", "-m", *command.split()], capture_output=True, text=True)
        assert ended.returncode == 0 and "scipy.stats" not in ended.stderr
        assert "report" in command or "scipy" not in ended.stderr


def test_directories_in_a_label_are_told_by_their_last_parts(tmp_path):
    for role in ("a", "b"):
        settings = {"model_pair": {"name": "custom", "target": {"name": f"/a/very/long/way/{role}/final"}}}
        write_run(tmp_path / role, settings=settings, overrides={"model_pair.target.name": f"/a/very/long/way/{role}/final"})
    labels = {row["label"] for row in make_rows(find_runs([tmp_path])) if "baseline" not in row["label"]}
    assert labels == {"speculative name=a/final", "speculative name=b/final"}


def test_a_mean_of_unlike_baselines_is_explained(tmp_path):
    for index, tpot in enumerate((0.050, 0.051)):
        write_run(tmp_path / f"{index}", gamma=index + 2, baseline_tpot=tpot)
    assert not any("the machine's speed changed" in note for note in notes(find_runs([tmp_path])))
    write_run(tmp_path / "slow", gamma=7, baseline_tpot=0.058)
    assert sum("the machine's speed changed between them" in note for note in notes(find_runs([tmp_path]))) == 1
