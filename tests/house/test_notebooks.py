"""The notebooks run from top to bottom and are kept without outputs; the documentation's worked example is a method; its site builds."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import specexp

ROOT = Path(specexp.__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
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


PAGE = "adding-a-method.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The directory that the page's blocks of a method and of a length rule make."""
    (tmp_path / "method").mkdir()
    (tmp_path / "policy").mkdir()
    names = ("echo_method.py", "doubling_rule.py"), ("method/echo.yaml", "policy/doubling.yaml")
    for language, files in zip(("python", "yaml"), names, strict=True):
        for file, block in zip(files, blocks(PAGE, language), strict=True):
            (tmp_path / file).write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in ("echo_method", "doubling_rule"):  # another test has files of the same names elsewhere
        sys.modules.pop(module, None)


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text())


@pytest.mark.parametrize("chosen", [("method=echo",), ("method=prompt_lookup", "policy@method.policy=doubling")], ids=["method", "length rule"])
def test_the_worked_example_decodes(example, command_line, chosen):
    code, errors = command_line("--config-dir", ".", *chosen, "dataset=microcopy", "dataset.limit=1", "max_new_tokens=32", "cost_curve=false", "hydra.run.dir=run")
    assert code == 0, errors
    summary = summary_of(example / "run")
    assert summary["equal_texts"] == 1.0 and summary["lossless"] and summary["block_efficiency"] > 1.2


def test_the_worked_example_refuses_as_all_methods_do(example, command_line):
    for wrong, told in (("method.gamma=-1", "gamma=-1 is negative"), ("method.gamma=x", "method.gamma=x does not fit"), ("+method.gama=1", "did you mean gamma?")):
        code, errors = command_line("--config-dir", ".", "method=echo", wrong)
        assert code == 1 and told in errors and errors.count("\n") == 1
    code, errors = command_line("--config-dir", ".", "policy@method.policy=doubling", "method.policy.longest=0")
    assert code == 1 and "longest=0 drafts nothing" in errors


def test_the_worked_example_is_found_as_a_package(example, command_line, monkeypatch):
    [announced] = blocks(PAGE, "toml")
    [(group, points)] = tomllib.loads(announced)["project"]["entry-points"].items()
    site, package = example / "site", example / "site" / "echo_method"
    (package / "conf" / "method").mkdir(parents=True)
    (example / "echo_method.py").rename(package / "__init__.py")
    (example / "method" / "echo.yaml").rename(package / "conf" / "method" / "echo.yaml")
    (site / "echo_method-1.0.dist-info").mkdir()
    (site / "echo_method-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-method\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {module}" for name, module in points.items())]
    (site / "echo_method-1.0.dist-info" / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    code, errors = command_line("method=echo", "dataset=microcopy", "dataset.limit=1", "cost_curve=false", "hydra.run.dir=run")
    assert code == 0 and summary_of(example / "run")["method"] == "echo", errors


@pytest.mark.slow
def test_the_commands_of_the_worked_example_work_and_its_figures_hold(example):
    method, rule = blocks(PAGE, "bash")
    single, sweep = method.splitlines()
    for command in (f"{single} hydra.run.dir=run", f"{sweep} hydra.sweep.dir=sweep", f"{rule.strip()} hydra.run.dir=rule"):
        shell = command.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}").replace("python -m", f"{sys.executable} -m")
        ended = subprocess.run(f"{shell} threads=1", shell=True, cwd=example, env=environment(), capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr[-2000:]
    [shown] = blocks(PAGE, "text")
    figures = dict(re.findall(r"│ +(speedup|draft acceptance rate|tokens per target call) .*│ +([\d.]+)(?:x| %)? │", shown))
    summary = summary_of(example / "run")
    assert summary["equal_texts"] == 1.0 and summary["lossless"] and summary["speedup"] > 1 and float(figures["speedup"]) > 1
    assert summary["block_efficiency"] == pytest.approx(float(figures["tokens per target call"]), abs=0.1)
    assert summary["draft_acceptance_rate"] == pytest.approx(float(figures["draft acceptance rate"]) / 100, abs=0.03)
    assert len(list((example / "sweep").rglob("summary.json"))) == 2 and summary_of(example / "rule")["equal_texts"] == 1.0


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
