"""The notebooks run from top to bottom and are kept without outputs; the documentation's worked example is a method; its site builds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import specexp

ROOT = Path(specexp.__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BRIEF = "max_new_tokens=32 warmup=1 threads=1"
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="needs the checkout, not the wheel")


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stripped(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(notebook, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    content = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.slow
def test_the_worked_example_of_a_method_works(tmp_path):
    (tmp_path / "echo_drafter.py").write_text(blocks("adding-a-method.md", "python")[0])
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "echo.yaml").write_text(blocks("adding-a-method.md", "yaml")[0])
    single, sweep = blocks("adding-a-method.md", "bash")[0].splitlines()
    for command in (f"{single} {BRIEF} hydra.run.dir=run", f"{sweep} {BRIEF} hydra.sweep.dir=sweep"):
        shell = command.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}").replace("python -m", f"{sys.executable} -m")
        ended = subprocess.run(shell, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["equal_texts"] == 1.0 and summary["lossless"] and summary["num_draft_tokens"] > 0
    assert len(list((tmp_path / "sweep").rglob("summary.json"))) == 2


def test_python_on_the_theory_page_says_what_it_prints(capsys):
    [block] = blocks("theory.md", "python")
    exec(block, {})
    assert capsys.readouterr().out.strip() == block.rpartition("# ")[2].strip()


def test_every_command_of_the_report_is_on_its_page():
    from specexp.report.__main__ import COMMANDS

    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if name != "table" and f"specexp.report {name} " not in text]


def test_every_papers_table_is_on_its_page():
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert not [file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml") if f"`{file.stem}`" not in text]


@pytest.mark.slow
def test_the_site_builds_and_no_link_is_broken(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Drafter" in (tmp_path / "site" / "api" / "index.html").read_text()
