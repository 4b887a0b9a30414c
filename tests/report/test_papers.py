"""The papers' tables: every experiment names its jobs, published figures keep their marks, and all of it runs on the tiny pair without a network."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from papers import CONTENT, FILES, PAPERS
from report_runs import records, write_run
from sides import changed

import specexp
from hydra_plugins.specexp_jobs.sweeper import rows
from specexp.cli.check import check_signatures
from specexp.cli.messages import conf_directory
from specexp.report.papers import COLUMNS, text
from specexp.report.runs import find_runs


def test_every_paper_is_there():
    assert len(PAPERS) == 15 and {"ablation", "humaneval_13b", "csd_mmlu", "dynatree_all_methods"} <= set(PAPERS)


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "ablation"])
def test_published_figures_say_where_from_how_and_what_is_wrong_with_them(name):
    published = CONTENT[name]["published"]
    assert all(len(published[key]) > 20 for key in ("source", "setup", "faults"))
    assert all("method" in row and "model_pair" in row and len(row) > 2 for row in published["rows"])


@pytest.mark.parametrize("name", ["humaneval_7b", "dynatree_long", "csd_gsm8k", "staged_gpt2"])
def test_a_tiny_pair_reads_what_ships(name):
    """Its last job, by way of the configuration: composed, of right types, and of data that need no network."""
    job = rows(CONTENT[name]["hydra"]["sweeper"]["jobs"], [])[-1]
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={name}", *job, "model_pair=tiny"])
    check_signatures(config)
    assert config.dataset.name == "humaneval" or config.dataset.path.startswith("asset:")


@pytest.mark.parametrize("name", [name for name in PAPERS if CONTENT[name].get("dataset", {}).get("max_words")])
def test_words_and_tokens_fit_a_model_of_2048_positions(name):
    """Of English, by one and a half tokens a word: the pairs that these texts were published with have no more."""
    lengths = CONTENT[name]["hydra"]["sweeper"].get("params", {}).get("max_new_tokens", CONTENT[name].get("max_new_tokens"))
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        data = compose("config", overrides=[f"experiment={name}"]).dataset
    assert data.min_words <= data.max_words and 1.5 * data.max_words + max(map(int, str(lengths).split(","))) <= 2048


def test_the_ablations_csv_has_its_columns_and_a_line_per_prompt(tmp_path):
    own = {"name": "egag", "gamma_min": 1, "gamma_max": 6, "ema": 0.9}
    made = records(4)
    made[0] = changed(made[0], "method", entropies=[0.5, 1.5])
    write_run(tmp_path / "run", method="egag", made=made, overrides={"seed": 3}, settings={"method": own, "seed": 3})
    lines = list(csv.DictReader(text(find_runs([tmp_path])).splitlines()))
    wanted = "method,gamma,gamma_min,gamma_max,ema,order,top_k_filler,seed,prompt_id,tokens,throughput,speedup,acceptance_rate,mean_gamma,mean_h"
    assert ",".join(COLUMNS) == wanted and len(lines) == 4
    assert {key: lines[0][key] for key in ("method", "gamma", "gamma_max", "ema", "seed", "prompt_id", "acceptance_rate", "mean_gamma", "mean_h")} == {
        "method": "egag", "gamma": "", "gamma_max": "6", "ema": "0.9", "seed": "3", "prompt_id": "p/0", "acceptance_rate": "0.5", "mean_gamma": "4.0", "mean_h": "1.0",
    }  # fmt: skip
    assert float(lines[0]["speedup"]) == pytest.approx(float(lines[0]["throughput"]) / 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if name != "load"])  # which needs a server: test_endpoint.py
def test_every_experiment_runs_on_the_tiny_pair(name, tmp_path):
    few = ["dataset.limit=1", "max_new_tokens=8", "warmup=1", "threads=1", "tracker=none", "hydra.sweep.dir=sweep"]
    few += ["method.depth=3,5"] if name == "tree_search" else []
    few += [setting for setting in ("seed=0", "sampling=greedy") if setting.partition("=")[0] in (CONTENT[name]["hydra"]["sweeper"].get("params") or {})]
    environment = os.environ | {"PYTHONPATH": str(Path(specexp.__file__).parent.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "specexp", "-m", f"experiment={name}", "model_pair=tiny", "quick=true", *few]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["results"]
    states = [row["state"] for row in results if row["method"] != "baseline" and row["state"] != "published"]
    assert states and set(states) == {"finished"}
    published = (CONTENT[name].get("published") or {}).get("rows") or []
    assert sum(row["state"] == "published" for row in results) == len(published)
    assert (tmp_path / "sweep" / "ablation.csv").exists() == (name == "ablation")
