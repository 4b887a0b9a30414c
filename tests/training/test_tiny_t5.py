"""The shipped encoder-decoder pair: its training is resumable to the bit and meets no evaluation article; it loads, summarises and runs."""

import json

import pytest
import running
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from tiers import tiered
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from specexp.assets import asset_path
from specexp.cli.messages import conf_directory
from specexp.errors import UserError
from specexp.models.pair import stop_ids
from specexp.training import articles
from specexp.training.pretrain_t5 import Articles, PlanT5, TrainerT5, begin, train
from specexp.training.tiny_t5 import DRAFT, PAD, TARGET, Shape, adapted, build, grown

SHIPPED, LLAMA = asset_path("asset:tiny_t5"), asset_path("asset:tiny/target")
ROWS = [json.loads(line) for line in asset_path("asset:microsum.jsonl").read_text(encoding="utf-8").splitlines()]
BRIEF = ["model_pair=tiny_t5", "dataset=microsum", "dataset.limit=4", "tracker=none", "threads=1", "warmup=1"]


def tiny_plan(out) -> PlanT5:
    return PlanT5(out, minutes=1, steps=20, rows=2, target=Shape(2, 2, 32, 64), shallow=1, draft=Shape(1, 1, 32, 48))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> TrainerT5:
    return train(tiny_plan(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def tokenizer():
    return adapted(AutoTokenizer.from_pretrained(LLAMA))


@pytest.mark.parametrize("stop", [3, 8, 17])  # shallow, grown, the draft alone
def test_resumed_training_ends_where_the_whole_does(finished, tmp_path, stop):
    plan = tiny_plan(tmp_path)
    trainer = begin(plan)
    for _ in range(stop):
        trainer.step()
    trainer.save()
    resumed = train(plan)
    for name in ("target", "draft"):
        expected, got = getattr(finished, name).state_dict(), getattr(resumed, name).state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_saved_models_load(finished):
    for name, layers in (("target", 2), ("draft", 1)):
        model = AutoModelForSeq2SeqLM.from_pretrained(finished.plan.out / name)
        tokenizer = AutoTokenizer.from_pretrained(finished.plan.out / name)
        assert (len(model.decoder.block), model.dtype, model.config.vocab_size) == (layers, torch.bfloat16, len(tokenizer))
        assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
        assert tokenizer.pad_token_id == model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id


def test_growth_keeps_the_function(tokenizer):
    small = build(Shape(2, 3, 32, 64), tokenizer)
    inputs = {"input_ids": torch.arange(20)[None], "decoder_input_ids": torch.arange(7)[None]}
    with torch.inference_mode():
        assert torch.equal(small(**inputs).logits, grown(small, Shape(6, 6, 32, 64), tokenizer)(**inputs).logits)


def test_tokenizer_is_the_tiny_llamas_with_a_start_of_its_own(tokenizer):
    llama = AutoTokenizer.from_pretrained(LLAMA)
    assert tokenizer.get_vocab() == llama.get_vocab() | {PAD: len(llama)}
    text = ROWS[0]["document"]
    assert tokenizer(text)["input_ids"] == [*llama(text)["input_ids"], llama.eos_token_id]


def test_batches_are_of_articles_that_no_evaluation_file_holds(tokenizer):
    corpus, evaluation = Articles(tokenizer, seed=0), {row["summary"] for row in ROWS}
    for step in range(60):
        sources, mask, labels, weights = corpus.batch(step, 8)
        assert sources.shape == mask.shape and labels.shape == weights.shape
        for source, summary, weight in zip(sources, labels, weights, strict=True):
            told = tokenizer.decode(summary, skip_special_tokens=True).strip()
            assert told not in evaluation and not articles.held_out(told)
            assert tokenizer.decode(source, skip_special_tokens=True).startswith("Generate a short Summary for this article: ")
            assert torch.equal(weight > 0, summary != tokenizer.pad_token_id)
    again = Articles(tokenizer, seed=0).batch(59, 8)
    assert torch.equal(again[0], sources) and torch.equal(again[2], labels)


# What is shipped


def test_shipped_pair_is_what_the_plan_describes():
    shapes = {"target": TARGET, "draft": DRAFT}
    configs = {name: AutoModelForSeq2SeqLM.from_pretrained(SHIPPED / name).config for name in shapes}
    assert {name: Shape(c.num_decoder_layers, c.num_layers, c.d_model, c.d_ff) for name, c in configs.items()} == shapes
    assert (SHIPPED / "target/tokenizer.json").read_bytes() == (SHIPPED / "draft/tokenizer.json").read_bytes()
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*.*") if file.is_file()) < 10e6


def test_shipped_target_summarises():
    tokenizer, model = AutoTokenizer.from_pretrained(SHIPPED / "target"), AutoModelForSeq2SeqLM.from_pretrained(SHIPPED / "target")
    assert stop_ids(model, tokenizer) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    for row in ROWS[:3]:
        prompt = articles.Article(row["document"], "").prompt
        written = model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=40)[0]
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == row["summary"]


def run(directory, *overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        config = compose("config", overrides=[*BRIEF, *overrides])
    running.run(config, directory)
    return json.loads((directory / "summary.json").read_text()), [
        json.loads(x) for x in (directory / "records.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    "overrides", tiered([("sampling=greedy",), ("sampling=nucleus",), ("method=prompt_lookup",), ("cache=none", "dataset.limit=1")], [("sampling=greedy",)])
)
def test_experiments_run(tmp_path, overrides):
    summary, records = run(tmp_path, *overrides)
    assert summary["lossless"] and summary["cache_exact"] and summary["rouge1"] > 0.5
    if "sampling=nucleus" not in overrides:
        assert summary["equal_texts"] == 1.0
    if "method=prompt_lookup" not in overrides:
        assert summary["draft_acceptance_rate"] > 0.6
    assert {record["method"]["finish"] for record in records} == {"eos"}
    assert all(record["method"]["text"].endswith(".") and "Generate" not in record["method"]["text"] for record in records)


def test_trees_and_a_llama_draft_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"a t5 model .* cannot grow token trees; choose a method that drafts chains \(method=speculative\)"
    ):
        run(tmp_path / "tree", "method=tree")
    with pytest.raises(UserError, match="choose two of one kind"):
        run(tmp_path / "mixed", "model_pair.draft.name=asset:tiny/draft")
