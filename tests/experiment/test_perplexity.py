"""Perplexity of caches: equal to a plain computation, whatever the passes; the command, its files and its refusals."""

import csv
import json
import math
import random
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from options import check_signatures
from sinks import SETTINGS, exact_llama, oracle, random_ids
from tiny_models import VOCAB, build

from specexp.cli.messages import conf_directory
from specexp.datasets.files import HubText, TextFile
from specexp.errors import UserError
from specexp.experiment.perplexity import Prediction, predict
from specexp.perplexity import __main__ as command
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner

IDS = random_ids(random.Random(0), 300)


def plain(logits, ids):
    """(mean nats, share right) of [T, V] logits, row t for token t + 1."""
    true = torch.tensor(ids[1:])
    law = logits[:-1].log_softmax(-1)
    return -float(law.gather(1, true[:, None]).mean()), float((law.argmax(-1) == true).double().mean())


@pytest.mark.parametrize("longest_pass", [1, 2, 50, 1000])
@pytest.mark.parametrize("runner", [ModelRunner, StatelessRunner])
def test_full_cache_equals_one_plain_pass(runner, longest_pass):
    model = build("llama", dtype=torch.float64)
    ids = IDS[:80] if runner is StatelessRunner else IDS
    found = predict(runner(model), ids, longest_pass)
    nll, accuracy = plain(model(torch.tensor([ids])).logits[0], ids)
    assert found.mean_nll == pytest.approx(nll, rel=1e-6) and found.accuracy == pytest.approx(accuracy)
    assert found.tokens == len(ids) - 1 and found.perplexity == pytest.approx(math.exp(nll), rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("longest_pass", [1, 30, 128])
def test_sink_cache_equals_its_definition_however_long_the_passes(settings, longest_pass):
    model, (max_length, sinks, block) = exact_llama(), settings
    found = predict(SinkRunner(model, None, sinks, max_length, block), IDS, longest_pass)
    nll, accuracy = plain(oracle(model, IDS, *settings), IDS)
    assert found.mean_nll == pytest.approx(nll, rel=1e-10) and found.accuracy == pytest.approx(accuracy)


def test_no_token_is_lost_and_overflow_is_no_error():
    assert predict(ModelRunner(build("llama")), [1, 2]).tokens == 1
    assert Prediction(1e6, 0, 10).perplexity == math.inf
    assert len({predict(ModelRunner(build("llama")), [v % VOCAB for v in range(n)]).tokens for n in (2, 128, 129, 130)}) == 4


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """run(*overrides) -> (exit code, standard output, standard error) in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["specexp.perplexity", *arguments])
        capfd.readouterr()
        try:
            command.cli()
        except SystemExit as end:
            return end.code, *capfd.readouterr()
        return 0, *capfd.readouterr()

    return call


def test_the_command_writes_what_it_shows(run, tmp_path):
    code, shown, _ = run("hydra.run.dir=here", "max_tokens=220", "max_length=68", "threads=1")
    assert code == 0
    told = json.loads((tmp_path / "here" / "perplexity.json").read_text())
    with (tmp_path / "here" / "perplexity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cache"] for row in rows] == [cache["cache"] for cache in told["caches"]] == ["full", "window", "sink"]
    full, window, sink = told["caches"]
    assert {cache["tokens"] for cache in told["caches"]} == {219} and full["cache_exact"] and not sink["cache_exact"]
    assert window["kv_bytes"] == sink["kv_bytes"] == 68 * full["kv_bytes"] // 219
    for row, cache in zip(rows, told["caches"], strict=True):
        assert float(row["perplexity"]) == pytest.approx(math.exp(cache["mean_nll"])) and f"{cache['perplexity']:.3f}" in shown
    assert len({cache["perplexity"] for cache in told["caches"]}) == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("text=wikitext2",), ("Salesforce/wikitext", "text=file text.path=FILE")),
        (("text=pg19",), ("emozilla/pg19-test", "text=file text.path=FILE")),
        (("text.path=nowhere.txt",), ("nowhere.txt does not exist", "text.path=")),
        (("text=wiki",), ("text=wiki does not exist", "wikitext2")),
        (("max_tokens=1",), ("max_tokens=1", "2 or more")),
        (("max_token=9",), ("no key max_token (did you mean max_tokens?)", "specexp perplexity --cfg job")),
        (("max_length=40",), ("cache.max_length=40", "or more")),
        (("max_length=20000",), ("cache.max_length=20000", "16384")),
        (("max_tokens=30000", "text.path=long.txt"), ("20001 tokens", "16384 positions under the cache full", "~caches.full")),
        (("text.path=short.txt",), ("fewer than two tokens", "text.path=FILE")),
        (("model_pair=tiny_t5",), ("reads a source", "model=NAME")),
        (("model=/no/such/place",), ("/no/such/place does not exist",)),
        (("model_pair=custom",), ("not set: model_pair.target.name", "model=NAME")),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_is_told_in_a_sentence_before_weights(run, monkeypatch, tmp_path, overrides, words):
    monkeypatch.setattr("specexp.models.loading.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    (tmp_path / "long.txt").write_text("7" * 20001)
    (tmp_path / "short.txt").write_text("7")
    code, _, error = run(*overrides)
    assert code == 1 and error.startswith("specexp perplexity: ") and error.count("\n") == 1 and all(word in error for word in words), error


def test_help_names_the_settings(run):
    code, shown, _ = run("--help")
    assert code == 0 and "specexp perplexity" in shown and "max_tokens" in shown


def test_texts_come_from_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert TextFile(str(tmp_path / "a.txt")).read() == "one\n\ntwo\n"
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    assert TextFile(str(tmp_path / "a.jsonl"), key="body", separator=" ").read() == "one two"
    with pytest.raises(UserError, match="lacks 'document'"):
        TextFile(str(tmp_path / "a.jsonl")).read()
    assert len(TextFile().read()) > 30000


def test_texts_from_the_hub_are_joined(monkeypatch):
    monkeypatch.setattr("specexp.datasets.files.hub_rows", lambda *_: [{"text": "a"}, {"text": "b"}, {"text": "c"}])
    assert HubText("x/y", "main", "test", "text", "|", "name", limit=2).read() == "a|b"
    with pytest.raises(UserError, match="text.limit=0"):
        HubText("x/y", "main", "test", "text", "|", "name", limit=0)


@pytest.mark.parametrize("text", ["file", "wikitext2", "pg19"])
def test_the_configuration_fits_what_it_names(text):
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        config = compose("perplexity", overrides=[f"text={text}", "max_length=128", "+cache@caches.long=sink", "caches.long.max_length=512"])
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    check_signatures(config)
    lengths = {name: node.get("max_length") for name, node in config.caches.items()}
    assert lengths == {"full": None, "window": 128, "sink": 128, "long": 512} and config.caches.window.sinks == 0


def test_a_text_that_crosses_a_switch_of_positions_is_refused():
    from types import SimpleNamespace

    from specexp.experiment.perplexity import _check_lengths

    pair = SimpleNamespace(switches=lambda: {64: "NAME"}, target=SimpleNamespace(name="NAME"))
    _check_lengths(pair, {}, 64)
    with pytest.raises(UserError, match="the text has 65 tokens, and beyond 64 NAME rotates all positions otherwise.*set max_tokens=64"):
        _check_lengths(pair, {}, 65)
