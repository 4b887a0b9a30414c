"""Every method under conf/method, found by itself, runs as a user would run it: on the shipped pairs, greedy and nucleus."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from hydra.utils import get_object
from papers import CONTENT, PAPERS
from running import composed, run

from specexp.assets import asset_path
from specexp.cli.messages import conf_directory
from specexp.errors import UserError
from specexp.peers.ort import missing
from specexp.tracking.records import read_records

ELSEWHERE = {"endpoint"}  # decodes on a server: test_endpoint.py
METHODS = sorted(file.stem for file in (Path(conf_directory()) / "method").glob("*.yaml") if not file.stem.startswith("_") and file.stem not in ELSEWHERE)


def drafts_trees(method):
    """Whether the method's function names a drafter that proposes trees. It is read and not called, as not every pair has what it needs."""
    function = get_object(composed(f"method={method}").method["_target_"])
    return any(getattr(function.__globals__.get(name), "needs_trees", False) for name in function.__code__.co_names)


ENGINE = [method for method in METHODS if method.startswith("ort")]  # not installed everywhere, knows no T5, compared greedily
# Relative positions know no trees and no masks of ours; a T5 is not left early either, and the pair ships no heads.
NO_T5 = ("hf_early_exit", "captured", "medusa", *ENGINE)
LOSSY = {"beam", "draft_alone", "lenient"}  # another search, another model's text, another rule
CHAINS = [m for m in METHODS if not drafts_trees(m) and m not in NO_T5]
PEERS = [method for method in METHODS if method.startswith("hf_")] + ENGINE  # bring their own caches
GREEDY_ONLY = {"synthetic", "planted", *ENGINE}
PART = {"csd-exact": ("method=csd", "verifier@method.reviewer=rejection"), "lenient": ("verifier@method.verifier=lenient",)}
PAIRS = {"tiny": ("dataset=microeval",), "tiny_t5": ("model_pair=tiny_t5", "dataset=microsum")}


def skip_what_cannot_be(method, sampling):
    if method in GREEDY_ONLY and sampling != "greedy":
        pytest.skip("drafts are made of the target's greedy text, or the engine is compared greedily")
    if method in ENGINE and missing() is not None:
        pytest.skip(f"needs the extra `peers`: {missing()} is not installed")


def finished(directory, *overrides):
    run(composed("max_new_tokens=20", *overrides), directory)
    return json.loads((directory / "summary.json").read_text()), read_records(directory)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["greedy", "nucleus"])
@pytest.mark.parametrize(
    ("pair", "method"), [("tiny", method) for method in [*METHODS, *PART]] + [("tiny_t5", method) for method in [*CHAINS, *PART]]
)
def test_runs_on_the_shipped_pairs(pair, method, sampling, tmp_path):
    skip_what_cannot_be(method, sampling)
    chosen = PART.get(method, (f"method={method}",))
    summary, records = finished(tmp_path, *PAIRS[pair], *chosen, f"sampling={sampling}")
    assert len(records) == 2 and summary["lossless"] is (method not in LOSSY)
    if sampling == "greedy" and summary["lossless"]:
        assert summary["equal_texts"] == 1.0
    assert all(record.method.token_ids and math.isfinite(record.method.nll_sum) for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["greedy", "nucleus"])
@pytest.mark.parametrize(
    ("pair", "method"),
    [("tiny", method) for method in [*METHODS, *PART] if method not in ("beam", "captured", *PEERS)] + [("tiny_t5", method) for method in ("speculative", "csd", "prompt_lookup")],
)
def test_runs_with_a_streaming_cache(pair, method, sampling, tmp_path):
    """Against autoregressive decoding under the same cache; lengths such that evictions fall into the text."""
    skip_what_cannot_be(method, sampling)
    chosen = PART.get(method, (f"method={method}",))
    overrides = (*PAIRS[pair], *chosen, f"sampling={sampling}", "cache=sink", "cache.max_length=68", "max_new_tokens=80", "ignore_eos=true", "dataset.limit=1", "warmup=0")
    summary, records = finished(tmp_path, *overrides)
    assert summary["cache_exact"] is False and summary["lossless"] is (method not in LOSSY)
    assert all(record.sides[side].tokens_evicted >= 32 for record in records for side in ("method", "baseline"))
    if sampling == "greedy" and summary["lossless"]:
        assert summary["equal_texts"] == 1.0 and summary["tokens_evicted"] == summary["baseline_tokens_evicted"]


def test_beam_search_is_refused_with_a_streaming_cache(tmp_path):
    with pytest.raises(UserError, match="cache=sink holds one text.*choose cache=full or cache=none"):
        finished(tmp_path, "method=beam", "cache=sink")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CONTENT) - set(PAPERS) - {"load"}))
def test_every_experiment_runs(name, tmp_path):
    """One job of its sweep. load needs a server: test_endpoint.py; the papers' are in test_papers.py."""
    assert finished(tmp_path, f"experiment={name}", "model_pair=tiny")[0]["equal_texts"] == 1.0


@pytest.mark.slow
def test_staged_stands_beside_both_models_alone(tmp_path):
    summary, records = finished(tmp_path, "experiment=staged")
    assert summary["method"] == "staged" and summary["equal_texts"] == 1.0 and summary["speedup_vs_draft"] > 0
    own = records[0].sides["baseline_draft"]
    assert own.draft_forwards == 0 and own.target_forwards == len(own.token_ids) and own.kv_bytes_target > 0


@pytest.mark.parametrize("method", PEERS)
def test_peers_are_refused_with_a_streaming_cache(method, tmp_path):
    skip_what_cannot_be(method, "greedy")
    with pytest.raises(UserError, match="cache=sink changes the model.*choose cache=full"):
        finished(tmp_path, f"method={method}", "cache=sink")


def test_early_exit_is_refused_for_a_t5(tmp_path):
    with pytest.raises(UserError, match="cannot leave a t5 model early"):
        finished(tmp_path, "method=hf_early_exit", *PAIRS["tiny_t5"])


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    """Two random models of Llama-2's structure with the shipped tokenizer."""
    places = {}
    for name, width in (("target", 64), ("draft", 32)):
        torch.manual_seed(width)
        config = transformers.LlamaConfig(
            vocab_size=2048, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=4096
        )
        places[name] = tmp_path_factory.mktemp(name)
        transformers.LlamaForCausalLM(config).save_pretrained(places[name])
        transformers.AutoTokenizer.from_pretrained(asset_path("asset:tiny/target")).save_pretrained(places[name])
    return places


def test_a_cascade_takes_several_drafts_by_name(llamas, tmp_path):
    chosen = [f"+model_pair@model_pair.drafts.{name}=_model" for name in ("big", "small")]
    names = [f"model_pair.target.name={llamas['target']}", f"model_pair.drafts.big.name={llamas['target']}", f"model_pair.drafts.small.name={llamas['draft']}"]
    matrix = "method.k_matrix=[[2,3,4],[0,2,2],[0,0,3]]"
    summary, records = finished(tmp_path, "method=csd", "model_pair=llama13b_7b", *chosen, *names, matrix, "dtype=float32")
    assert summary["equal_texts"] == 1.0 and summary["swi_model_parameters"] > 0
    assert all(set(record.method.draft_forwards_by_model) == {"big", "small"} for record in records)
    assert {origin for record in records for origin in record.method.origins} & {"draft:big", "draft:small", "draft:max_gram"}


@pytest.mark.parametrize(("override", "words"), [("method.leniency=0.5", "leniency=0.5"), ("method.k_matrix=[5,10]", "k_matrix=[5, 10]"), ("method.k_matrix=[[3]]", "2 x 2"), ("method.min_match=0", "min_match=0")])
def test_what_a_cascade_cannot_do_is_told_before_weights_are_loaded(override, words, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.experiment.places.OwnModels.open", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError) as refused:
        run(composed("method=csd", override), tmp_path)
    assert words in str(refused.value)


@pytest.mark.parametrize("overrides", [(), ("method.k_matrix=[[2,3],[0,4]]",), ("verifier@method.reviewer=rejection", "sampling=nucleus")])
def test_the_cascade_of_a_named_pair_instantiates_with_small_models_of_its_structure(llamas, overrides, tmp_path):
    places = [f"model_pair.{name}.name={place}" for name, place in llamas.items()]
    summary, records = finished(tmp_path, "method=csd", "model_pair=llama13b_7b", *places, "dtype=float32", *overrides)
    assert summary["model_pair"] == "llama13b_7b" and (overrides[1:] or summary["equal_texts"] == 1.0)
    assert any(record.method.draft_forwards_by_model == {"draft": record.method.draft_forwards} for record in records)
