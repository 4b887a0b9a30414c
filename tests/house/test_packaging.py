"""What a user installs: the wheel holds configuration and assets and runs from any directory; CI runs what the README says."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import specexp

ROOT = Path(specexp.__file__).parent.parent
checkout = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the checkout, not the wheel")


@checkout
def test_ci_runs_exactly_the_readmes_test_command():
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    command = next(line for block in blocks for line in block.splitlines() if "pytest" in line)
    assert command.replace("pip install", "pip install -q") in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@checkout
def test_wheel_holds_conf_and_assets_and_runs_anywhere(tmp_path):
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    needed = ["conf/config.yaml", "conf/method/speculative.yaml", "assets/microeval.jsonl", "assets/microsum.jsonl"]
    models = [f"assets/{pair}/{model}" for pair in ("tiny", "tiny_t5") for model in ("target", "draft")]
    needed += [f"assets/medusa/tiny/{file}" for file in ("config.json", "medusa_lm_head.safetensors")]
    needed += [f"{model}/{file}" for model in models for file in ("model.safetensors", "tokenizer.json")]
    needed += ["report/page.html.j2", "conf/hydra/sweeper/jobs.yaml", "assets/plan.jsonl"]
    assert not {f"specexp/{name}" for name in needed} - names and "hydra_plugins/specexp_jobs/sweeper.py" in names
    assert sum((tmp_path / "site" / name).stat().st_size for name in names if "/assets/" in name) < 40e6
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "specexp", "--cfg", "job", "method.gamma=7"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert "gamma: 7" in shown
