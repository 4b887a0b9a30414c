"""What is not trusted unless the user says so: a model's own code, pickled weights; and what never leaves the environment: secrets."""

import json
import re
from pathlib import Path

import pytest
import yaml

import specexp
from specexp.cli.check import refuse_credentials
from specexp.cli.messages import conf_directory
from specexp.errors import UserError
from specexp.models.spec import ModelSpec

SECRETS = {"WANDB_API_KEY": "k" * 40, "HF_TOKEN": "hf_" + "t" * 34, "OPENAI_API_KEY": "sk-" + "o" * 30, "MY_PASSWORD": "p" * 20}


def trusted(node):
    """Which settings of trust a configuration file turns on."""
    if isinstance(node, dict):
        yield from (key for key in ("trust_remote_code", "allow_pickle") if node.get(key))
        for child in node.values():
            yield from trusted(child)


def test_no_configuration_trusts_a_models_code_and_few_take_pickles():
    """Those are published in no other form, and say so."""
    found = {file.stem: set(trusted(yaml.safe_load(file.read_text(encoding="utf-8")))) for file in Path(conf_directory()).rglob("*.yaml")}
    assert {name: keys for name, keys in found.items() if keys} == {name: {"allow_pickle"} for name in ("vicuna7b", "vicuna13b", "vicuna33b")}


def test_the_loader_itself_trusts_neither():
    assert not ModelSpec("a/b").trust_remote_code and not ModelSpec("a/b").allow_pickle


def test_nothing_unpickles_more_than_tensors():
    """Every torch.load in the package says so; every other unpickling is the sandbox's."""
    for file in Path(specexp.__file__).parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert len(re.findall(r"torch\.load\(", text)) == len(re.findall(r"torch\.load\([^\n]*weights_only=True", text)), file
        assert "pickle.load" not in text or file.name == "inside_sandbox.py", file


def test_a_configuration_with_a_secret_is_refused_without_telling_it(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=rf"tracker\.tags\.0 holds the secret of the environment variable {name},") as caught:
            refuse_credentials({"seed": 1, "tracker": {"tags": [f"x{value}"], "mode": None}})
        assert value not in str(caught.value)
    monkeypatch.setenv("SHORT_TOKEN", "speculative"[:8])
    refuse_credentials({"method": {"name": "speculative"}, "key": "".join(SECRETS)})


@pytest.mark.slow
def test_no_secret_is_written_anywhere(command_line, monkeypatch, tmp_path, capfd):
    """Records, environment, logs, Hydra's files and W&B's run of a whole job, with keys in the environment and in ~/.netrc."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRETS['WANDB_API_KEY']}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, errors = command_line("tracker=wandb", "tracker.mode=offline", "dataset.limit=1", "hydra.run.dir=run")
    assert code == 0
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != ".netrc"]
    assert {"records.jsonl", "environment.json", "config.yaml", "specexp.log"} <= {file.name for file in files}
    assert [file for file in files if file.suffix == ".wandb"]
    for secret in SECRETS.values():
        assert secret not in errors and not [file for file in files if secret.encode() in file.read_bytes()]
    assert json.loads((tmp_path / "run" / "environment.json").read_text()) and yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())


@pytest.mark.slow
def test_a_secret_on_the_command_line_is_refused(command_line, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRETS["WANDB_API_KEY"])
    code, errors = command_line("tracker=wandb", "tracker.entity=${oc.env:WANDB_API_KEY}")
    assert code == 1 and "tracker.entity holds the secret" in errors and SECRETS["WANDB_API_KEY"] not in errors
