"""What is not trusted unless the user says so: a model's own code, pickled weights; and what never leaves the environment: secrets."""

import json
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import specexp
from specexp.cli.credentials import refuse_arguments, refuse_credentials
from specexp.cli.plugins import conf_directory
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
            refuse_credentials(OmegaConf.create({"seed": 1, "tracker": {"tags": [f"x{value}"], "mode": None}}))
        assert value not in str(caught.value)
    monkeypatch.setenv("SHORT_TOKEN", "speculative"[:8])
    refuse_credentials(OmegaConf.create({"method": {"name": "speculative"}, "key": "".join(SECRETS)}))
    refuse_arguments(["method=speculative"])


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


def holding(directory, secret):
    """The files and folders below it that hold the secret, in their names or in their bytes."""
    return [path for path in directory.rglob("*") if secret in str(path) or (path.is_file() and secret.encode() in path.read_bytes())]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("tracker.tags=[{secret}]",), "tracker.tags"),
        (("+{secret}=1",), "the command line"),
        (("method.name=${{oc.env:{name}}}",), "method.name"),
        (("-m", "method.name={secret},b"), "method.name"),
        (("-m", "method.name=${{oc.env:{name}}},b"), "method.name"),
        (("--config-dir", "brought", "dataset=with_secret"), "dataset.name"),
        (("-m", "--config-dir", "brought", "dataset=with_secret", "seed=1,2"), "dataset.name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_secret_is_refused_before_anything_is_written(arguments, key, name, command_line, monkeypatch, tmp_path):
    secret = SECRETS[name]
    monkeypatch.setenv(name, secret)
    (tmp_path / "brought" / "dataset").mkdir(parents=True)
    (tmp_path / "brought" / "dataset" / "with_secret.yaml").write_text(f"# A made-up one.\nname: {secret}\nmax_new_tokens: 4\nlimit: 1\n")
    code, errors = command_line(*[argument.format(secret=secret, name=name) for argument in arguments], "hydra.run.dir=run", "hydra.sweep.dir=sweep")
    assert code == 1 and secret not in errors
    assert errors.startswith(f"specexp: {key} holds the secret of the environment variable {name}") and errors.count("\n") == 1
    assert not (tmp_path / "run").exists() and not (tmp_path / "sweep").exists()


def test_a_secret_that_a_choice_of_a_sweep_brings_stays_nowhere(command_line, monkeypatch, tmp_path):
    """The sweep itself does not show it; the other job runs."""
    secret = SECRETS["WANDB_API_KEY"]
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setattr("specexp.experiment.job.run", lambda *_: None)
    (tmp_path / "brought" / "tracker").mkdir(parents=True)
    (tmp_path / "brought" / "tracker" / "mine.yaml").write_text(f"# A made-up one.\n_target_: specexp.tracking.wandb.WandbTracker\nentity: {secret}\n")
    code, errors = command_line("-m", "--config-dir", "brought", "tracker=none,mine", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}")
    assert code == 1 and "tracker.entity holds the secret of the environment variable WANDB_API_KEY" in errors
    assert holding(tmp_path / "sweep", secret) == [] and secret not in errors
    assert json.loads((tmp_path / "sweep" / "1" / "failure.json").read_text())["error"].startswith("tracker.entity holds")
    assert (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").exists() and not (tmp_path / "sweep" / "1" / ".hydra").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("method=endpoint", "method.url=http://me:pass-of-mine@host/v1"), "method.url holds a password inside a URL"),
        (("-m", "method=endpoint", "method.url=http://me:pass-of-mine@host/v1,http://other/v1"), "method.url holds a password inside a URL"),
        (("+method.api_key=pass-of-mine",), "method.api_key is to hold a secret"),
        (("+hydra.job.env_set.HF_TOKEN=pass-of-mine",), "hydra.job.env_set.HF_TOKEN is to hold a secret"),
        (("-m", "+tracker.token=pass-of-mine,b"), "tracker.token is to hold a secret"),
        (("--config-dir", "brought", "dataset=with_secret"), "dataset.password is to hold a secret"),
        (("--config-dir", "brought", "dataset=with_url"), "dataset.path holds a password inside a URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_secret_of_no_environment_is_told_by_where_it_stands(arguments, told, command_line, tmp_path):
    (tmp_path / "brought" / "dataset").mkdir(parents=True)
    (tmp_path / "brought" / "dataset" / "with_secret.yaml").write_text("# A made-up one.\nname: x\npassword: pass-of-mine\nmax_new_tokens: 4\nlimit: 1\n")
    (tmp_path / "brought" / "dataset" / "with_url.yaml").write_text("# A made-up one.\nname: x\npath: s3://me:pass-of-mine@host\nmax_new_tokens: 4\nlimit: 1\n")
    code, errors = command_line(*arguments, "hydra.run.dir=run", "hydra.sweep.dir=sweep")
    assert code == 1 and errors.startswith(f"specexp: {told}, and a configuration is written to disk; leave it out") and errors.count("\n") == 1
    assert "pass-of-mine" not in errors and [place.name for place in tmp_path.iterdir()] == ["brought"]


def test_what_is_no_secret_passes(monkeypatch):
    monkeypatch.setenv("OLD_API_KEY_2", "sk-of-another-year\n")
    refuse_credentials(OmegaConf.create({"method": {"api_key_env": "OPENAI_API_KEY", "max_tokens": 4, "token": None}, "secret": "", "key": "document"}))
    refuse_credentials(OmegaConf.create({"url": "http://host:8000/v1", "mail": "me@host", "stop_token": "</s>"}))
    refuse_arguments(["dataset.key=token", "method.url=http://[::1]:8000/v1", "x=a://b/c:d@e"])
    with pytest.raises(UserError, match="a holds the secret of the environment variable OLD_API_KEY_2"):
        refuse_credentials(OmegaConf.create({"a": "x sk-of-another-year y"}))


def test_half_a_character_is_refused_before_anything_is_written(command_line, tmp_path):
    (tmp_path / "brought" / "dataset").mkdir(parents=True)
    (tmp_path / "brought" / "dataset" / "half.yaml").write_text('# A made-up one.\nname: "x\\ud83d"\nmax_new_tokens: 4\nlimit: 1\n')
    for arguments, told in (
        (("dataset.name=\udcff",), r"argument 2 of the command line has half a character ('\udcff' at place 13)"),
        (("--config-dir", "brought", "dataset=half"), r"dataset.name has half a character ('\ud83d' at place 1)"),
    ):
        code, errors = command_line(*arguments, "hydra.run.dir=run")
        assert code == 1 and errors == f"specexp: {told}: write the whole character, or leave it out.\n"
    assert [place.name for place in tmp_path.iterdir()] == ["brought"]
