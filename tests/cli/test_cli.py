"""Bad input on the command line: one sentence that names the value and the way out, no traceback, no model loaded.

In this process, since a process of its own costs seconds each time; the last tests start real ones.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import specexp
from specexp.cli import jobs, messages
from specexp.cli.check import check
from specexp.errors import UserError
from specexp.experiment import job

BRIEF = ("tracker=none", "threads=1", "warmup=1", "dataset.limit=2", "max_new_tokens=8")
TINY = Path(specexp.__file__).parent / "assets" / "tiny"



@pytest.fixture
def run(command_line):
    return command_line


def no_weights(*_, **__):
    pytest.fail("weights were loaded")


@pytest.fixture
def refused(run, monkeypatch):
    """refused(*overrides) -> the sentence, after checking that it is one and that no weights were loaded for it."""

    monkeypatch.setattr("specexp.models.loading.load_model", no_weights)

    def call(*arguments, **options):
        code, error = run(*arguments, **options)
        assert code == 1
        assert error.startswith("specexp: ") and error.count("\n") == 1 and error.endswith(".\n"), error
        return error.removeprefix("specexp: ").rstrip()

    return call


@pytest.fixture(scope="module")
def composed():
    GlobalHydra.instance().clear()
    with initialize_config_dir(messages.conf_directory(), version_base="1.3"):
        return compose("config", overrides=list(BRIEF))


@pytest.fixture
def job_refuses(composed, monkeypatch, tmp_path):
    """As `refused`, without composing anew for each: overrides of keys (not of groups) go straight to the job."""
    monkeypatch.setattr("specexp.models.loading.load_model", no_weights)

    def call(*overrides):
        config = copy.deepcopy(composed)
        for key, value in (override.split("=", 1) for override in overrides):
            OmegaConf.update(config, key, yaml.safe_load(value) if value else "")
        with pytest.raises(UserError) as caught:
            check(config)
            job.run(config, tmp_path / "run", None, jobs.build)
        assert str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")
        return str(caught.value)

    return call


@pytest.mark.parametrize(
    ("group", "wrong", "meant", "other"),
    [
        ("method", "speculativ", "speculative", "prompt_lookup"),
        ("model_pair", "tinny", "tiny", "pythia_2b8_70m"),
        ("dataset", "humanevil", "humaneval", "microsum"),
        ("sampling", "gready", "greedy", "nucleus"),
        ("cache", "ful", "full", "none"),
        ("experiment", "gama", "gamma", "gamma"),
    ],
)
def test_unknown_choice_names_the_nearest_and_all(refused, group, wrong, meant, other):
    told = refused(f"{group}={wrong}", brief=False)
    assert f"{group}={wrong} does not exist (did you mean {meant}?)" in told
    assert re.search(rf"choose one of .*\b{other}\b", told) and "path:" not in told and "_schema" not in told


@pytest.mark.parametrize("choice", ["method=nothing_like_it", "method=3", "tracker=null", "verifier@method.verifier=wrong"])
def test_unknown_choice_without_a_near_one(refused, choice):
    told = refused(choice)
    assert "does not exist; choose one of" in told and choice.partition("=")[2] in told


def test_misspelt_key_names_the_nearest(refused):
    for wrong in ("method.gama=3", "~method.gama"):
        told = refused(wrong, brief=False)
        assert "no key method.gama (did you mean method.gamma?)" in told and "--cfg job" in told


def test_key_of_another_choice_names_who_has_it(refused):
    told = refused("method.table=x")
    assert "method.table is a key of method=katz, method=staged only" in told and "method.table=choice(VALUE)" in told


def test_a_part_that_the_chosen_method_lacks_names_who_has_it(refused):
    told = refused("method=confidence", "policy@method.policy=egag")
    assert "policy@method.policy is no choice here, since what was chosen has no such part; choose one of" in told and "method=speculative" in told
    assert "no such part; choose one of method=csd, method=max_gram." in refused("match@method.match=latest")
    assert "no such part; leave it out." in refused("match@method.nothing=latest")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("methd", "method"),
        ("metod.gamma", "method.gamma"),
        ("max_new_token", "max_new_tokens"),
        ("gamma", "method.gamma"),
        ("limit", "dataset.limit"),
        ("model_pair.target.nam", "model_pair.target.name"),
        ("cache.nam", None),
        ("zzz", None),
    ],
)
def test_where_the_nearest_key_is_sought(wrong, meant):
    told = messages.explain_hydra(ValueError(f"Could not override '{wrong}'.\nTo append to your config use +{wrong}=3"))
    assert f"no key {wrong}{f' (did you mean {meant}?)' if meant else ''};" in told


def test_parameter_that_no_class_has(refused):
    told = refused("policy@method.policy=egag", "+method.policy.gama_max=3")
    assert "method.policy.gama_max does not exist (did you mean gamma_max?); method.policy takes gamma_min, gamma_max, ema." in told
    assert "method.verifier.leniency does not exist; method.verifier takes nothing." in refused("+method.verifier.leniency=3")


def test_what_the_job_supplies_is_no_key(refused):
    assert "no key method.draft" in refused("method.draft=x")
    assert "method.draft does not exist" in refused("+method.draft=x")


def test_a_gamma_that_a_chosen_policy_would_hide_is_refused(refused):
    """The policy alone is no mistake: gamma is there by default."""
    told = refused("method.gamma=6", "policy@method.policy=egag")
    assert told.startswith("method.gamma=6 would be ignored, as method.policy is used in its place")


def test_part_of_a_method_is_chosen_by_its_place(refused):
    assert "verifier@method.verifier" in refused("verifier=lenient")
    assert "policy@method.policy" in refused("policy=egag")
    assert "drafter@method.fallback" in refused("method=max_gram", "drafter=bigram")


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("method.gamma=abc", "whole number"),
        ("method.gamma=1.5", "whole number"),
        ("method.gamma=", "whole number"),
        ("method.gamma=null", "whole number"),
        ("method.first_target=perhaps", "true or false"),
        ("dataset.limit=abc", "whole number or null"),
        ("dataset.stop_strings=abc", "a list"),
        ("sampling.temperature=abc", "a number"),
        ("model_pair.target=gpt2", "its keys"),
        ("device=3", "a text"),
        ("max_new_tokens=1.5", "whole number"),
        ("samples=abc", "whole number"),
        ("quick=maybe", "true or false"),
    ],
)
def test_wrong_type_names_the_key_that_was_given(job_refuses, override, way_out):
    told = job_refuses(override)
    assert told.startswith(f"{override} does not fit; give") and way_out in told


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method.gamma=-1",), ("gamma=-1", "0 for none")),
        (("dataset.limit=0",), ("dataset.limit=0", "1 or more")),
        (("dataset.limit=-1",), ("dataset.limit=-1", "1 or more")),
        (("max_new_tokens=0",), ("max_new_tokens=0", "1 or more")),
        (("max_new_tokens=-5",), ("max_new_tokens=-5", "1 or more")),
        (("samples=0",), ("samples=0", "1 or more")),
        (("repeats=0",), ("repeats=0", "1 or more")),
        (("threads=0",), ("threads=0", "1 or more")),
        (("threads=100000",), ("threads=100000", "cores of this machine")),
        (("warmup=-1",), ("warmup=-1", "0 or more")),
        (("seed=-1",), ("seed=-1", "0 or more")),
        (("samples=3",), ("samples=3", "sampling=nucleus")),
        (("sampling.temperature=-1",), ("sampling.temperature=-1", "0 means greedy")),
        (("sampling.top_p=2",), ("sampling.top_p=2", "null")),
        (("sampling.top_k=0",), ("sampling.top_k=0", "null")),
        (("dtype=float8",), ("dtype=float8", "bfloat16")),
        (("device=toaster",), ("device=toaster", "cpu")),
        (("sandbox=docker",), ("sandbox=docker", "bubblewrap")),
        (("max_new_tokens=100000",), ("max_new_tokens=100000", "16384", "lower max_new_tokens")),
    ],
    ids=lambda value: " ".join(value),
)
def test_impossible_value(job_refuses, overrides, words):
    told = job_refuses(*overrides)
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method.gamma=-1",), ("gamma=-1", "0 for none")),
        (("method.gamma=abc",), ("method.gamma=abc does not fit",)),
        (("max_new_tokens=0",), ("max_new_tokens=0", "1 or more")),
        (("method.gamma=${nothing}",), ("gamma", "'nothing' not found")),
        (("method=medusa", "method.paths=[[a]]"), ("method.paths=[['a']] does not fit", "a list ([a,b]) of a list ([a,b]) of whole numbers or null")),
        (("method=medusa", "method.paths=[[0]]"), ("nodes=16, ranks=null and a tree of paths", "nodes=null")),
        (("method=csd", "model_pair.drafts=3"), ("model_pair.drafts=3 does not fit", "names, each with its keys")),
        (("method=csd", "+model_pair.drafts.big.name=X"), ("model_pair.drafts={'big': {'name': 'X'}} does not fit", "its class among them")),
        (("+model_pair.costs.by_time.target=x",), ("model_pair.costs={'by_time': {'target': 'x'}} does not fit", "a number")),
        (("tracker=wandb", "tracker.mode=foo"), ("tracker.mode=foo", "offline", "tracker=none")),
        (("method=prompt_lookup", "method.max_ngram=0"), ("max_ngram=0",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_refusals_of_the_job_reach_the_command_line(refused, overrides, words):
    told = refused(*overrides)
    assert all(word in told for word in words), told


def test_cuda_without_one(job_refuses, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = job_refuses("device=cuda")
    assert "device=cuda" in told and "device=cpu" in told


@pytest.mark.parametrize("side", ["target", "draft"])
def test_model_not_present_offline_names_both_ways_out(job_refuses, side):
    told = job_refuses(f"model_pair.{side}.name=nobody/nothing")
    assert "hf download nobody/nothing" in told and f"model_pair.{side}.name=DIRECTORY" in told


def test_directory_that_does_not_exist(job_refuses):
    assert "model_pair.target.name=/no/such/directory does not exist" in job_refuses("model_pair.target.name=/no/such/directory")


def test_custom_pair_without_names(refused):
    told = refused("model_pair=custom")
    assert told.startswith("not set: model_pair.target.name, model_pair.draft.name;")


def test_method_without_draft_model_asks_for_no_draft(refused):
    told = refused("model_pair=custom", "method=prompt_lookup")
    assert "model_pair.target.name" in told and "draft" not in told


def test_different_tokenizers(job_refuses, tmp_path):
    other = shutil.copytree(TINY / "draft", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = list(vocabulary)[100:102]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    told = job_refuses(f"model_pair.draft.name={other}")
    assert "cannot draft for" in told and str(other) in told and "model_pair.tokenizer=" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": "a", "prompt": "x"}\n{"id": "b", \n', ("line 2", "not JSON")),
        ('{"id": "a"}\n', ("line 1", "lacks 'prompt'")),
        ("[1]\n", ("line 1", "not an object")),
        ("", ("is empty",)),
        (None, ("does not exist", "dataset.path=")),
    ],
)
def test_bad_prompt_file(refused, tmp_path, content, words):
    file = tmp_path / "prompts.jsonl"
    if content is not None:
        file.write_text(content)
    told = refused("dataset=prompts", f"dataset.path={file}")
    assert str(file) in told and all(word in told for word in words)


def test_prompts_without_a_file(refused):
    assert "add dataset.path=FILE" in refused("dataset=prompts")


@pytest.mark.parametrize(("override", "parent"), [("hydra.run.dir=", "file"), ("hydra.run.dir=", "/proc"), ("hydra.sweep.dir=", "file")])
def test_run_directory_that_cannot_be_made(refused, tmp_path, override, parent):
    (tmp_path / "file").write_text("not a directory")
    place = str(tmp_path / "file" / "x") if parent == "file" else "/proc/x"
    told = refused(*(["-m"] if "sweep" in override else []), override + place)
    assert told.startswith(f"cannot write to {place} (") and override + "DIR" in told


def test_run_directory_in_which_the_log_cannot_be_made(refused, tmp_path):
    (tmp_path / "run" / "specexp.log").mkdir(parents=True)
    assert "cannot write to" in refused(f"hydra.run.dir={tmp_path / 'run'}")


@pytest.mark.parametrize(
    "override",
    ["method.gamma", "foo bar", "method.gamma=[1", "method.gamma='abc", "method.gamma=${foo", "method.gamma=a=b", "method..gamma=3", "=3", "+=", "+=x", "+@=", "+@a=b"],
)
def test_override_that_is_none(refused, override):
    told = refused(override, brief=False)
    assert told.startswith(override) and "KEY=VALUE" in told


def test_quotes_are_shown_for_a_value_that_needs_them(refused):
    assert "\"model_pair.target.name='a=b'\"" in refused("model_pair.target.name=a=b")


def test_several_values_without_multirun(refused):
    told = refused("method.gamma=1,2")
    assert "method.gamma=1,2 is more than one value" in told and "-m" in told and "method.gamma=[1,2]" in told


def test_plus_before_a_key_that_is_there(refused):
    assert "method.gamma is there already; leave out the +" in refused("+method.gamma=3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hydra.job.num=abc",), "hydra.job.num=abc does not fit"),
        (("--config-name", "nothing"), "primary config 'nothing'"),
        (("--config-dir", "/no/such"), "--config-dir /no/such does not exist; name a folder"),
        (("--resolve",), "--resolve"),
        (("+dataset=humaneval",), "Multiple values for dataset"),
        (("-m", "hydra.launcher._target_=no.Such", "seed=1"), "no.Such is no plugin of Hydra's; choose one by name, with hydra/launcher=NAME"),
        (("-m", "hydra.sweeper._target_=hydra_plugins.no.Such", "seed=1"), "hydra_plugins.no.Such is no plugin of Hydra's"),
        (("-m", "hydra/launcher=nosuch", "seed=1"), "hydra/launcher=nosuch does not exist; choose one of basic"),
        (("+hydra.callbacks.x._target_=no.Such",), "hydra.callbacks.x: Error locating target 'no.Such'; give it another value"),
        (("hydra.job_logging.handlers.file.class=no.Such",), "hydra.job_logging.handlers.file cannot be made; choose hydra/job_logging=default"),
    ],
)
def test_rarer_mistakes_end_in_one_line_too(run, arguments, words):
    code, error = run(*arguments)
    assert code == 1 and words in error and error.startswith("specexp: ") and error.count("\n") == 1


def test_a_launcher_for_slurm_needs_slurm(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, error = run("-m", "hydra/launcher=slurm", "seed=1,2")
    assert code == 1 and error.startswith("specexp: hydra/launcher=slurm needs Slurm's srun, which is not on this machine") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_message_nobody_foresaw_is_told_by_its_first_line():
    assert messages.explain_hydra(ValueError("something new\n  with details")) == "something new"


def test_a_defect_keeps_its_traceback(run, monkeypatch):
    """Also one of a kind that, before the job, would be the user's."""
    for defect in (ValueError("a defect"), OSError(5, "a defect"), TypeError("a defect")):
        monkeypatch.setattr("specexp.experiment.job.run", lambda *_, error=defect: (_ for _ in ()).throw(error))
        with pytest.raises(type(defect), match="a defect"):
            run()


def test_interrupt_says_how_to_go_on(run, monkeypatch, tmp_path):
    monkeypatch.setattr("specexp.experiment.job.run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, error = run(f"hydra.run.dir={tmp_path / 'here'}")
    assert code == 130 and error.count("\n") == 1 and f"hydra.run.dir={tmp_path / 'here'} goes on" in error
    code, error = run("-m", f"hydra.sweep.dir='{tmp_path / 'a b'}'")
    assert code == 130 and f"\"hydra.sweep.dir='{tmp_path / 'a b'}'\" goes on" in error


def test_interrupt_before_the_job_begins(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["specexp"])
    with pytest.raises(SystemExit) as end:
        jobs.launch(lambda: (_ for _ in ()).throw(KeyboardInterrupt), str)
    assert end.value.code == 130 and capfd.readouterr().err == "specexp: interrupted before anything was begun.\n"


def test_a_sweep_ends_with_the_numbers_of_the_jobs_that_could_not_run(run, monkeypatch):
    def job_run(config, *_):
        if config.seed == 2:
            raise UserError("a sentence.")

    monkeypatch.setattr("specexp.experiment.job.run", job_run)
    code, error = run("-m", "seed=1,2", "hydra.sweep.dir=sweep")
    assert code == 1 and error.endswith("specexp: jobs 1 of the sweep could not run, for the reasons above; the others are finished.\n")
    assert re.search(r"specexp: job 1 \(.*seed=2.*\): a sentence\.", error)


def test_a_number_for_a_part_names_its_key(run):
    code, error = run("method=katz", "method.verifier=-1")
    assert code == 1 and error.startswith("specexp: method.verifier=-1 does not fit") and error.count("\n") == 1


@pytest.mark.slow
def test_one_bad_job_does_not_stop_the_others_of_a_sweep(run, tmp_path):
    code, error = run("-m", "method.gamma=-1,2,x", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}", "dataset.limit=1")
    lines = [line for line in error.splitlines() if line.startswith("specexp: ")]
    assert code == 1 and "Error executing job" not in error and "Traceback" not in error
    assert "job 0 (" in lines[0] and "gamma=-1 is negative" in lines[0]
    assert "job 2 (" in lines[1] and "method.gamma=x does not fit" in lines[1]
    assert lines[2].startswith("specexp: jobs 0, 2 of the sweep could not run") and len(lines) == 3
    assert (tmp_path / "sweep" / "1" / "summary.json").exists() and not (tmp_path / "sweep" / "0" / "records.jsonl").exists()


def started(*arguments, cwd, **environment):
    root = str(Path(specexp.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-m", "specexp", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_real_exit_code_and_no_traceback(tmp_path):
    ended = started("method.gama=3", cwd=tmp_path)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith("specexp: ") and ended.stderr.count("\n") == 1


def test_hub_that_does_not_answer(tmp_path):
    """Not switched off, only silent: the address is one that is never assigned."""
    silent = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://192.0.2.1", "HF_HOME": str(tmp_path)}
    ended = started("model_pair.target.name=nobody/nothing", "tracker=none", cwd=tmp_path, **silent)
    assert ended.returncode == 1 and "hf download nobody/nothing" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_streaming_cache_takes_texts_of_any_length_but_no_longer_cache(refused, run, monkeypatch):
    assert "cache.max_length=20000 is more than the 16384 positions of asset:tiny" in refused("cache=sink", "cache.max_length=20000")
    assert "cache.block=8 evicts too often" in refused("cache=sink", "cache.block=8")
    monkeypatch.setattr("specexp.experiment.places.OwnModels.open", lambda *_: (_ for _ in ()).throw(UserError("as far as weights.")))
    assert "as far as weights" in run("cache=sink", "max_new_tokens=100000")[1]
