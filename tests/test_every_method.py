"""Every method under conf/method, found by itself, runs as a user would run it: on the shipped pairs, greedy and nucleus."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from test_resume import composed, run

from specexp.assets import asset_path
from specexp.configuration import conf_directory
from specexp.tracking.records import read_records

METHODS = sorted(file.stem for file in (Path(conf_directory()) / "method").glob("*.yaml") if not file.stem.startswith("_"))
CHAINS = [method for method in METHODS if method != "tree"]  # T5's relative positions know no trees
PART = {"csd-exact": ("method=csd", "verifier@method.reviewer=rejection"), "lenient": ("verifier@method.decoder.verifier=lenient",)}
PAIRS = {"tiny": ("dataset=microeval",), "tiny_t5": ("model_pair=tiny_t5", "dataset=microsum")}


def finished(directory, *overrides):
    run(composed("max_new_tokens=20", *overrides), directory)
    return json.loads((directory / "summary.json").read_text()), read_records(directory)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["greedy", "nucleus"])
@pytest.mark.parametrize(
    ("pair", "method"), [("tiny", method) for method in [*METHODS, *PART]] + [("tiny_t5", method) for method in [*CHAINS, *PART]]
)
def test_runs_on_the_shipped_pairs(pair, method, sampling, tmp_path):
    chosen = PART.get(method, (f"method={method}",))
    tables = ("method.decoder.drafter.table.path=asset:tables/tiny_trigram.safetensors",) if method == "katz" else ()  # of the same tokenizer
    summary, records = finished(tmp_path, *PAIRS[pair], *chosen, *tables, f"sampling={sampling}")
    assert len(records) == 2 and summary["lossless"] is (method not in ("beam", "lenient"))
    if sampling == "greedy" and summary["lossless"]:
        assert summary["equal_texts"] == 1.0
    assert all(record["method"]["token_ids"] and math.isfinite(record["method"]["nll_sum"]) for record in records)


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


@pytest.mark.parametrize("overrides", [(), ("method.k_matrix=[[2,3],[0,4]]",), ("verifier@method.reviewer=rejection", "sampling=nucleus")])
def test_the_cascade_of_a_named_pair_instantiates_with_small_models_of_its_structure(llamas, overrides, tmp_path):
    places = [f"model_pair.{name}.name={place}" for name, place in llamas.items()]
    summary, records = finished(tmp_path, "method=csd", "model_pair=llama13b_7b", *places, "dtype=float32", *overrides)
    assert summary["model_pair"] == "llama13b_7b" and (overrides[1:] or summary["equal_texts"] == 1.0)
    assert any(record["method"]["draft_forwards_by_model"] == {"draft": record["method"]["draft_forwards"]} for record in records)
