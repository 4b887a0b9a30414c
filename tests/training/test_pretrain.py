"""Training of the tiny models: resumable to the bit, growth changes no output, what it writes loads; in seconds, at toy sizes."""
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from specexp.assets import asset_path
from specexp.training.corpus import library_sources, train_tokenizer, training_texts
from specexp.training.optimizers import orthogonalise, schedule
from specexp.training.pretrain import FROZEN_FROM, Plan, Trainer, begin, train
from specexp.training.tiny import DRAFT, TARGET, Shape, build, grown

SHIPPED = asset_path("asset:tiny")


def tiny_plan(out) -> Plan:
    return Plan(out, minutes=1, steps=20, rows=2, length=32, target=Shape(2, 32, 64), shallow=1, draft=Shape(1, 32, 48),
                vocabulary=400, documents=50, sources=6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Trainer:
    return train(tiny_plan(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(training_texts(library_sources(6), 50, seed=0), 500)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 17])  # before and after the target has grown
def test_resumed_training_ends_where_the_whole_does(finished, tmp_path, stop):
    plan = tiny_plan(tmp_path)
    interrupted = train_until(plan, stop)
    assert interrupted.progress.step == stop
    resumed = train(plan)
    for name in ("target", "draft"):
        expected, got = getattr(finished, name).state_dict(), getattr(resumed, name).state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)


def train_until(plan: Plan, stop: int) -> Trainer:
    """The state a killed run leaves: the same plan, some steps and a checkpoint."""
    trainer = begin(plan)
    for _ in range(stop):
        trainer.step()
    trainer.save()
    return trainer


def test_training_learns_something(finished):
    assert finished.shown["target"] < 6.0  # ln 400 is 5.99
    assert finished.progress.tokens > 0


def test_saved_models_load(finished):
    for name, layers in (("target", 2), ("draft", 1)):
        model = AutoModelForCausalLM.from_pretrained(finished.plan.out / name)
        tokenizer = AutoTokenizer.from_pretrained(finished.plan.out / name)
        assert (len(model.model.layers), model.dtype, model.config.vocab_size) == (layers, torch.bfloat16, len(tokenizer))
        assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id


def test_tokenizer_gives_the_text_back(tokenizer):
    texts = ["def f(x):\n    \"\"\"Count 1234.\"\"\"\n\n\n\treturn  x_1 [ ' a' ] !\r\n", "naïve Käse 日本 🙂", " ", "\n\n", "a . b , c n't"]
    for text in [*texts, *library_sources(3)]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_prompt_and_solution_join_at_a_token(tokenizer):
    prompt, solution = "def f(n):\n    \"\"\"Return n.\"\"\"\n", "    return n\n"
    assert tokenizer(prompt)["input_ids"] + tokenizer(solution)["input_ids"] == tokenizer(prompt + solution)["input_ids"]


def test_growth_keeps_the_function(tokenizer):
    small = build(Shape(2, 32, 64), tokenizer)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(small(ids).logits, grown(small, Shape(6, 32, 64), tokenizer)(ids).logits)


def test_orthogonalised_singular_values_are_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (3, 40, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.6 and values.max() < 1.3


def test_schedule_warms_up_and_ends_at_zero():
    factors = [schedule(share / 100, FROZEN_FROM) for share in range(101)]
    assert 0 < factors[0] < 0.1 and max(factors) == 1.0 and factors[-1] == 0.0


def test_shipped_pair_is_what_the_plan_describes():
    shapes = {"target": TARGET, "draft": DRAFT}
    configs = {name: AutoModelForCausalLM.from_pretrained(SHIPPED / name).config for name in shapes}
    assert {name: Shape(c.num_hidden_layers, c.hidden_size, c.intermediate_size) for name, c in configs.items()} == shapes
    assert (SHIPPED / "target/tokenizer.json").read_bytes() == (SHIPPED / "draft/tokenizer.json").read_bytes()
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*.*") if file.is_file()) < 20e6


def test_shipped_target_copies_the_constant():
    tokenizer, model = AutoTokenizer.from_pretrained(SHIPPED / "target"), AutoModelForCausalLM.from_pretrained(SHIPPED / "target")
    prompt = tokenizer('def count_prices(prices):\n    """Count the prices that are at least 6."""\n', return_tensors="pt")
    written = tokenizer.decode(model.generate(**prompt, do_sample=False, max_new_tokens=40)[0])
    assert "        if price >= 6:\n            count += 1\n    return count\n" in written
