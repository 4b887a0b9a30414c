"""The names of the directories of a sweep's jobs: one name each, inside the sweep's directory, of bounded length, and never another job's."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from running import BRIEF

from specexp.cli.jobs import LONGEST, directory_name

ODD = [
    "dataset.path=../../../x", "dataset.path=../../../y", "dataset.path=a/b", "dataset.path=a_b", "dataset.path=/abs", "x=..", "x=.",
    "model_pair.target.name=Org/Model", "model_pair.target.name=org/model", "x=é", "x=e\u0301", "x=日本", "x=😀", "x=a b", "x=a\tb", "x=a\nb",
    "x='a'", 'x="a"', "x=" + "a" * 300, "x=" + "a" * 299 + "b", "x=" + "/" * 300, "x=${y}", "x=$HOME", "x=*", "x=a:b", "x=\ud83d", "x=CON",
    "x=a,y=b", "x='a,y=b'", "x=A", "x=a", "x={a:1}", "x=[1,2]", "+x=1", "~x", "x=a\0b",
]  # fmt: skip


def test_a_name_is_one_safe_name_and_no_two_are_alike():
    names = [directory_name(text) for text in ODD]
    for name in names:
        assert len(name) <= LONGEST and name.isascii() and not set(name) & set("/\\:*?\"'<>|${} \t\n\0") and name not in ("", ".", "..")
    assert len({name.lower() for name in names}) == len(ODD)
    again = [directory_name(name) for name in names]  # a name that looks like one of ours is not taken for it
    assert not {name for name, other in zip(names, ODD, strict=True) if name != other} & set(again)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=150), min_size=2, max_size=2, unique=True))
def test_any_two_overrides_have_two_names(values):
    names = [directory_name(f"x={value}").lower() for value in values]
    assert len(set(names)) == 2 and all(len(name) <= LONGEST and "/" not in name for name in names)


def test_usual_names_stay_what_they_are():
    for usual in ("method.gamma=4,seed=1", "method.branching=[2,1],sampling=nucleus", "+method@baselines.tree=tree", "ignore_eos=True,quick=False", ""):
        assert directory_name(usual) == usual


@pytest.fixture
def sweep(command_line, tmp_path, monkeypatch):
    """sweep(*overrides) -> the directories of the jobs, with what each job saw of `dataset.name`; no job does anything."""

    def run(config, directory, sweep, build):
        (directory / "summary.json").write_text(json.dumps({"dataset": config.dataset.name, "method": config.method.name}))

    monkeypatch.setattr("specexp.experiment.job.run", run)

    def call(*overrides, code=0):
        ended, errors = command_line("-m", "hydra.sweep.dir=sweep", *overrides)
        assert ended == code and "Warning" not in errors, errors
        return errors, {file.parent: json.loads(file.read_text())["dataset"] for file in sorted(tmp_path.rglob("summary.json"))}

    return call


def test_jobs_stay_inside_their_sweep_and_apart(sweep, tmp_path):
    long = "l" * 300
    errors, found = sweep(f"dataset.name=../../x,a/B,{long}1,{long}2,'é a,b'")
    assert sorted(found.values()) == sorted(["../../x", "a/B", f"{long}1", f"{long}2", "é a,b"])
    assert all(place.parent == tmp_path / "sweep" for place in found) and "5 of 5 jobs done" in errors
    for place, name in found.items():
        given = yaml.safe_load((place / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        assert [override.partition("=")[2].strip("'") for override in given if override.startswith("dataset.name=")] == [name]


def test_the_same_job_twice_is_one_job(sweep):
    errors, found = sweep("seed=2,2")
    assert len(found) == 1 and "1 of 1 jobs done" in errors


def test_an_interpolation_to_what_a_sweep_varies_is_resolved_in_each_job(sweep):
    errors, found = sweep("model_pair=custom", "model_pair.target.name=a,b", "model_pair.draft.name=${model_pair.target.name}", "dataset.name=${model_pair.draft.name}")
    assert sorted(found.values()) == ["a", "b"] and "2 of 2 jobs done" in errors


@pytest.mark.parametrize("before", ["model_pair.target.name=Org/A", pytest.param("dataset.name='x y'", marks=pytest.mark.slow)])
def test_a_sweep_that_an_earlier_version_began_is_gone_on_with(sweep, tmp_path, before):
    """Its job lies below directories that a slash in a value made, or under a name that would have a hash now."""
    _, found = sweep(before)
    [new] = found
    overrides = yaml.safe_load((new / ".hydra" / "overrides.yaml").read_text())
    old = new.parent / ",".join(sorted(override for override in overrides if not override.startswith("tracker")))
    old.parent.mkdir(parents=True, exist_ok=True)
    new.rename(old)
    assert list(sweep(before)[1]) == [old]
    (old / ".hydra" / "overrides.yaml").write_text("- of=another\n")
    assert set(sweep(before)[1]) == {old, new}
    (old / ".hydra" / "overrides.yaml").write_text("{not yaml")
    assert set(sweep(before)[1]) == {old, new}


def test_every_command_with_sweeps_names_its_jobs_so(command_line, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.experiment.perplexity.run", lambda config, directory, build: (directory / "done").write_text(""))
    code, _ = command_line("perplexity", "-m", "hydra.sweep.dir=sweep", "text.path=../../a,../../b", brief=False)
    assert code == 0 and {file.parent.parent for file in tmp_path.rglob("done")} == {tmp_path / "sweep"}
    assert BRIEF  # what `command_line` adds to runs
