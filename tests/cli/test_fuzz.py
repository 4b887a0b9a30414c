"""Bad input by the hundred: whatever a key is set to and whatever a file holds, it works or it is refused in one sentence.

A sentence about a value names the key it was given to, or the file. Numbers of examples: few in the fast tier, many in the slow one;
the same ones every time.
"""

import copy
import functools
import json
import operator
import re

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from running import composed
from sides import record, side

from specexp.assets import asset_path
from specexp.cli.check import check, shown
from specexp.cli.jobs import build, explain_error
from specexp.datasets.answers import Summarisation
from specexp.datasets.files import TextFile
from specexp.datasets.humaneval import HumanEval
from specexp.datasets.prompts import Prompts
from specexp.errors import UserError, on_one_line
from specexp.experiment import job
from specexp.tracking.records import RunDirectory, read_records

METHODS = ("speculative", "csd", "egag", "cost_model", "tree", "adaptive_tree", "medusa", "nasd", "katz", "beam", "hf_assisted", "synthetic")
GROUPS = {"method": METHODS, "dataset": ("microeval", "microsum"), "cache": ("full", "sink"), "sampling": ("greedy", "topknucleus")}
NOT_FOR_USERS = {"_target_", "_partial_", "runners"}


def thorough(examples):
    """Without making failures smaller: an example takes tens of milliseconds, and is small."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


class Accepted(BaseException):
    """The run would have begun."""


# ---------------------------------------------------------------- values of keys
VALUES = st.one_of(
    st.integers(-3, 3), st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=8), st.lists(st.integers(-2, 9), max_size=3),
    st.dictionaries(st.text("abc_", min_size=1, max_size=4), st.integers(), max_size=2),
    st.sampled_from(["auto", "abc", "1e400", "/", "/no/such", "~", "..", "asset:", "a/b", "${nothing}", "${oc.env:NO_SUCH}", "???", "é\n", "\0", " ", "0"]),
)


def leaves(node, path=""):
    for key in node:
        place = f"{path}.{key}" if path else str(key)
        if str(key) in NOT_FOR_USERS:
            continue
        yield place
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(value := node[key]):
            yield from leaves(value, place)


def compositions(groups):
    """A configuration for each choice in turn, and its keys."""
    configs = [composed(f"{group}={option}") for group, options in groups.items() for option in options]
    return [(config, sorted(leaves(config))) for config in configs]


def outcome(config, directory):
    """The sentence it is refused with, None where it would run; anything else that is raised is a defect."""
    try:
        check(config)
        job.run(config, directory, None, build)
    except Accepted:
        return None
    except (UserError, OmegaConfBaseException) as error:
        return explain_error(error)
    raise AssertionError("a run began")


def check_values(groups, directory, monkeypatch, examples):
    """Gives the sentences seen."""
    monkeypatch.setattr(job, "_decode", lambda *_: (_ for _ in ()).throw(Accepted))
    choices, told = compositions(groups), set()

    @thorough(examples)
    @given(st.integers(0, len(choices) - 1), st.integers(0), VALUES)
    def check(choice, number, value):
        config, keys = choices[choice]
        config, key = copy.deepcopy(config), keys[number % len(keys)]
        try:
            OmegaConf.update(config, key, value)
        except OmegaConfBaseException:  # the command line would not get so far
            reject()
        sentence = outcome(config, directory)
        if sentence is not None:
            assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 1500, (key, value, sentence)
            assert key.rpartition(".")[2] in re.findall(r"\w+", sentence) or on_one_line(shown(value)) in on_one_line(sentence), (key, value, sentence)
            told.add(sentence)

    check()
    return told


@pytest.mark.slow
def test_a_value_works_or_is_refused_by_its_key(tmp_path, monkeypatch):
    assert len(check_values({"method": ["csd"]}, tmp_path / "run", monkeypatch, 25)) > 5


@pytest.mark.slow
def test_many_values_work_or_are_refused_by_their_keys(tmp_path, monkeypatch):
    assert len(check_values(GROUPS, tmp_path / "run", monkeypatch, 1500)) > 200


# ---------------------------------------------------------------- command lines
def check_command_lines(call, monkeypatch, examples):
    monkeypatch.setattr("specexp.experiment.job._decode", lambda *_: (_ for _ in ()).throw(UserError("accepted.")))
    keys = st.one_of(st.sampled_from(["method", "method.gamma", "dataset", "dataset.limit", "max_new_tokens", "seed", "sandbox", "cache"]), st.text("abcγ._@/+~", max_size=8))
    values = st.one_of(st.text(max_size=10), st.text("[]{}'\"$=,:\\ 1a", max_size=8), st.integers().map(str))

    @thorough(examples)
    @given(st.lists(st.one_of(st.tuples(keys, values).map("=".join), st.text(max_size=6).filter(lambda text: not text.startswith("-"))), min_size=1, max_size=2))
    def check(arguments):
        code, errors = call(*arguments)
        lines = [line for line in errors.splitlines() if line.startswith("specexp: ")]
        assert code == 1 and len(lines) == 1 and "Traceback" not in errors, (arguments, errors)

    check()


@pytest.mark.slow
def test_any_command_line_ends_in_one_sentence(command_line, monkeypatch):
    check_command_lines(command_line, monkeypatch, 300)


# ---------------------------------------------------------------- data files
JSON = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)), lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)), max_leaves=5)
ROW = st.fixed_dictionaries({}, optional={key: st.one_of(st.text(max_size=8), JSON) for key in ("id", "prompt", "task_id", "entry_point", "test", "document", "summary")})
LINE = st.one_of(ROW.map(json.dumps), JSON.map(json.dumps), st.text(max_size=20), st.just('{"id": "a", "prompt": "b"}'))
CONTENT = st.one_of(st.binary(max_size=60), st.lists(LINE, max_size=4).map("\n".join).map(str.encode))
READERS = (HumanEval, Prompts, Summarisation)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "txt", "parquet"])
def test_a_data_file_is_read_or_refused_by_its_name(tmp_path, ending):
    file = tmp_path / f"data.{ending}"

    @thorough(60)
    @given(CONTENT, st.sampled_from(READERS))
    def check(content, reader):
        file.write_bytes(content)
        try:
            assert reader(path=str(file)).examples()
        except UserError as error:
            assert "\n" not in str(error) and (file.name in str(error) or "two examples with the id" in str(error))

    check()


def test_a_text_is_read_or_refused_by_its_name(tmp_path):
    @thorough(60)
    @given(CONTENT, st.sampled_from(["text.txt", "text.jsonl"]))
    def check(content, name):
        (tmp_path / name).write_bytes(content)
        try:
            TextFile(path=str(tmp_path / name)).read()
        except UserError as error:
            assert "\n" not in str(error) and name in str(error)

    check()


def test_a_run_directory_with_anything_in_it_is_gone_on_with_or_refused(tmp_path):
    @thorough(40)
    @given(CONTENT, CONTENT)
    def check(records, config):
        (tmp_path / "records.jsonl").write_bytes(records)
        (tmp_path / "config.yaml").write_bytes(config)
        for use in (lambda: read_records(tmp_path), lambda: RunDirectory(tmp_path, "a: 1\n").__enter__().close()):
            try:
                use()
            except UserError as error:
                assert "\n" not in str(error) and str(tmp_path) in str(error)

    check()


def test_a_record_with_anything_in_a_place_of_it_is_read_or_refused(tmp_path):
    whole = record("a", side(5, rounds=[[3, 1], [2, 2]]), side(5), baseline_captured=side(5)).to_json()
    places = [(key,) for key in whole] + [("method", key) for key in whole["method"]] + [("method", "repeats", 0, key) for key in whole["method"]["repeats"][0]]

    @thorough(100)
    @given(st.sampled_from(places), JSON, st.booleans())
    def check(place, value, missing):
        content = json.loads(json.dumps(whole))
        node = functools.reduce(operator.getitem, place[:-1], content)
        node[place[-1]] = value
        if missing:
            del node[place[-1]]
        (tmp_path / "records.jsonl").write_text(json.dumps(content) + "\n")
        try:
            [found] = read_records(tmp_path)
            assert isinstance(found.method.tokens, int) and found.method.request_seconds is not None and found.method.timed_rounds is not None
        except UserError as error:
            assert re.fullmatch(r"\S+ record 1 (lacks \w+|has \w+ of a wrong kind)( in '\w+')?: mend or delete that line\.", str(error))

    check()


# ---------------------------------------------------------------- model directories
@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"])
def test_a_damaged_model_directory_is_refused_or_works(tmp_path, name, monkeypatch):
    import shutil

    monkeypatch.setattr(job, "_decode", lambda *_: (_ for _ in ()).throw(Accepted))
    place = tmp_path / "model"
    shutil.copytree(asset_path("asset:tiny/draft"), place)
    whole = (place / name).read_bytes() if (place / name).exists() else b"{}"
    config = composed()
    config.model_pair.draft.name = str(place)

    @thorough(25)
    @given(st.integers(0, len(whole)), st.binary(max_size=4), st.booleans())
    def check(at, junk, cut):
        from specexp.models import loading, pair

        loading.keep_only({})
        pair.forget_tokenizers()
        (place / name).write_bytes(whole[:at] + junk + (b"" if cut else whole[at + len(junk) :]))
        sentence = outcome(copy.deepcopy(config), tmp_path / "run")
        assert sentence is None or "\n" not in sentence, sentence

    check()


@pytest.mark.parametrize("value", ["yes", {"a": 1}, yaml.safe_load("1e400")])
def test_settings_of_the_kind_that_yaml_gives(value, tmp_path, monkeypatch):
    """Words that YAML reads as something else than they look."""
    monkeypatch.setattr(job, "_decode", lambda *_: (_ for _ in ()).throw(Accepted))
    config = composed()
    OmegaConf.update(config, "seed", value)
    assert outcome(config, tmp_path).startswith("seed=")
