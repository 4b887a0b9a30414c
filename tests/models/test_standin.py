"""Stand-ins: the small model's function at another model's size, by every way of asking for logits; shapes are the published ones."""

import json
import math

import pytest
import torch
from decodes import decode, text
from drafts import random_draft, walk
from pairs import PAIR_NAMES
from running import composed, run
from tiers import tiered
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from specexp.decoding.context import Context
from specexp.decoding.draft import empty_draft
from specexp.drafters.model import NoDraft
from specexp.errors import UserError
from specexp.models.loading import load_config, load_model
from specexp.models.pair import load_tokenizer
from specexp.models.spec import LlamaShape, ModelSpec
from specexp.models.standin import MaskedHead, grow, shape_of, standin_config
from specexp.runners import llama
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.tracking.records import read_records

SMALL = {"layers": 2, "hidden": 24, "intermediate": 40, "heads": 4, "kv_heads": 4, "head_dim": 8, "vocab": 96}
LARGER = {
    "the same size": {},
    "wider stream": {"hidden": 40},
    "longer frequencies": {"head_dim": 32},
    "head size no multiple": {"head_dim": 20},
    "more heads": {"heads": 7, "kv_heads": 7},
    "shared keys": {"head_dim": 16, "heads": 8, "kv_heads": 2},
    "all keys in one": {"head_dim": 36, "heads": 5, "kv_heads": 1},
    "more layers": {"layers": 5},
    "bigger vocabulary": {"vocab": 131},
    "its own output projection": {"tied": False},
    "wider feed-forward": {"intermediate": 100},
    "everything": {"layers": 4, "hidden": 56, "intermediate": 96, "heads": 12, "kv_heads": 3, "head_dim": 24, "vocab": 128, "tied": False},
}  # fmt: skip


def small_llama(kv_heads=4, tied=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    shape = LlamaShape(**SMALL | {"kv_heads": kv_heads, "tied": tied})
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=kv_heads, head_dim=shape.head_dim, tie_word_embeddings=tied,
        max_position_embeddings=512, rms_norm_eps=0.1, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    assert shape_of(config) == shape
    return model.to(dtype)


def shape(changes, kv_heads=4, tied=True):
    return LlamaShape(**SMALL | {"kv_heads": kv_heads, "tied": tied} | changes)


def double_norm(self, states):
    """Both the model's own and that of our pass compute in float32 whatever they are given."""
    return llama._norm(states, self.weight, self.variance_epsilon)


def assert_same_function(small, large, atol, known=96):
    """Prefill, cached decoding and trees against the small model's plain forward pass."""
    import random

    rng = random.Random(0)
    runner, oracle = ModelRunner(large), StatelessRunner(small)
    context = Context([rng.randrange(known) for _ in range(30)])
    runner.start(context.ids)
    for round_number in range(12):
        draft = random_draft(rng, rng.randrange(0, 7), tree=round_number % 2) if round_number else empty_draft()
        got, expected = runner.logits(context, draft, len(draft) + 1), oracle.logits(context, draft, len(draft) + 1)
        torch.testing.assert_close(got[:, :known], expected, rtol=0, atol=atol)
        assert bool((got[:, known:] == -math.inf).all())
        context.append([*walk(rng, draft), rng.randrange(known)])


@pytest.mark.parametrize("changes", LARGER.values(), ids=LARGER)
def test_logits_are_the_small_models(changes, monkeypatch):
    small = small_llama()
    assert_same_function(small, grow(small, shape(changes), torch.float32, "cpu"), atol=2e-5)
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", double_norm)
    monkeypatch.setattr(llama, "_rounded_norm", llama._norm)
    double = small_llama(dtype=torch.float64)
    assert_same_function(double, grow(double, shape(changes), torch.float64, "cpu"), atol=1e-9)


@pytest.mark.parametrize(("kv_heads", "changes"), [(2, {"heads": 8}), (2, {"heads": 12, "kv_heads": 3, "head_dim": 16}), (2, {"heads": 6, "kv_heads": 1, "head_dim": 16}), (1, {"heads": 8, "kv_heads": 2})])
def test_small_models_whose_heads_share_keys_keep_their_function(kv_heads, changes):
    small = small_llama(kv_heads, tied=False)
    assert_same_function(small, grow(small, shape(changes, kv_heads, tied=False), torch.float32, "cpu"), atol=2e-5)


def test_the_seed_is_of_the_inner_weights_alone():
    small, wanted = small_llama(), shape(LARGER["everything"])
    first, again, other = (grow(small, wanted, torch.float32, "cpu", seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert_same_function(small, other, atol=2e-5)


def test_no_matrix_is_smaller_than_the_shape_says_and_no_added_layer_idle():
    wanted = shape(LARGER["everything"])
    model = grow(small_llama(), wanted, torch.float32, "cpu")
    assert model.num_parameters() == wanted.parameters == sum(p.numel() for p in model.parameters())
    assert isinstance(model.lm_head, MaskedHead) and model.lm_head.weight.shape == (wanted.vocab, wanted.hidden)
    added = model.model.layers[-1]
    assert added.self_attn.q_proj.weight.std() > 0 and added.mlp.up_proj.weight.std() > 0
    assert not added.self_attn.o_proj.weight.any() and not added.mlp.down_proj.weight.any()


def test_a_tied_projection_is_the_embedding():
    model = grow(small_llama(), shape({"hidden": 32, "vocab": 128}), torch.float32, "cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.num_parameters() == shape({"hidden": 32, "vocab": 128}).parameters


@pytest.mark.parametrize(("changes", "words"), [
    ({"layers": 1}, "layers=1 cannot hold a model with 2"),
    ({"hidden": 16}, "hidden=16"),
    ({"head_dim": 6}, "head_dim=6"),
    ({"vocab": 95}, "vocab=95"),
    ({"heads": 8, "kv_heads": 3}, "kv_heads=3"),
    ({"heads": 8, "kv_heads": 2}, "kv_heads=2 .* cannot hold 4 heads of 8"),
    ({"heads": 4, "kv_heads": 2, "head_dim": 8}, "kv_heads=2"),
])  # fmt: skip
def test_what_cannot_hold_the_model_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        standin_config(small_llama().config, shape(changes))


def test_only_a_plain_llama_grows():
    with pytest.raises(UserError, match="not from a gpt2 model; choose another grown_from"):
        standin_config(GPT2Config(), shape({}))


def test_a_tied_shape_cannot_hold_two_matrices():
    with pytest.raises(UserError, match="tied=true"):
        standin_config(small_llama(tied=False).config, shape({}))


def test_sixteen_bits_change_the_function_little():
    small = small_llama()
    large = grow(small, shape(LARGER["everything"]), torch.bfloat16, "cpu")
    assert large.dtype == torch.bfloat16 and large.model.rotary_emb.inv_freq.dtype == torch.float32
    tokens = torch.randint(0, 96, (1, 40), generator=torch.Generator().manual_seed(0))
    near, exact = large(tokens).logits[..., :96].float(), small(tokens).logits
    assert (near - exact).abs().mean() < 0.1 * exact.std()


# The shipped pair at other sizes

MODEST = {
    "target": {"layers": 26, "hidden": 256, "intermediate": 512, "heads": 8, "kv_heads": 4, "head_dim": 64, "vocab": 4096},
    "draft": {"layers": 2, "hidden": 384, "intermediate": 800, "heads": 8, "kv_heads": 4, "head_dim": 64, "vocab": 4000},
}


def modest(side):
    return ModelSpec("someone/x", "float32", "cpu", weights="standin", grown_from=f"asset:tiny/{side}", shape=LlamaShape(**MODEST[side]))


@pytest.mark.parametrize("side", ["target", "draft"])
def test_greedy_text_is_the_shipped_models(side):
    real, grown = ModelSpec(f"asset:tiny/{side}", "float32", "cpu"), modest(side)
    tokenizer, vocab = load_tokenizer(real.name), MODEST[side]["vocab"]
    for prompt in ("def area_of_circle(radius):\n", "import os\n\n\ndef ", "The council said on Monday that"):
        ids = tokenizer(prompt)["input_ids"]
        assert text(decode(ModelRunner(load_model(grown), vocab), NoDraft(), 50, ids)) == text(decode(ModelRunner(load_model(real)), NoDraft(), 50, ids))


LITTLE = ["max_new_tokens=16", "dataset.limit=1", "warmup=0"]


def by_name(*overrides):
    shapes = [f"model_pair.{side}.shape.{key}={value}" for side, numbers in MODEST.items() for key, value in numbers.items()]
    return composed("model_pair=llama7b_160m", "model_pair.weights=standin", "dtype=float32", *LITTLE, *shapes, *overrides)


RUNS = [("method=speculative",), ("method=tree", "sampling=nucleus"), ("method=katz",), ("method=speculative", "cache=sink", "cache.max_length=68", "max_new_tokens=60", "ignore_eos=true")]


@pytest.mark.parametrize("overrides", tiered(RUNS, [("method=speculative",)]))
def test_a_named_pair_runs_as_a_stand_in_and_says_so(overrides, tmp_path, capsys):
    run(by_name(*overrides), tmp_path / "grown")
    run(composed(*LITTLE, *overrides), tmp_path / "tiny")
    summary = json.loads((tmp_path / "grown" / "summary.json").read_text())
    ours, theirs = read_records(tmp_path / "grown"), read_records(tmp_path / "tiny")
    assert summary["weights"] == "standin" and summary["model_pair"] == "llama7b_160m"
    assert {record.weights for record in ours} == {"standin"} and {record.weights for record in theirs} == {"real"}
    environment = json.loads((tmp_path / "grown" / "environment.json").read_text())
    assert environment["weights"] == "standin" and environment["shapes"]["target"] == {"architecture": "llama", "tied": False} | MODEST["target"]
    assert "STAND-INS" in capsys.readouterr().out
    if "sampling=nucleus" not in overrides:
        assert [record.method.token_ids for record in ours] == [record.method.token_ids for record in theirs]
        assert summary["equal_texts"] == 1.0


@pytest.mark.parametrize(("overrides", "words"), [
    (("model_pair=flan_t5_xxl",), "google/flan-t5-xxl has no stand-in, as model_pair.target.shape.layers is not known"),
    (("model_pair=llama7b_160m", "model_pair.target.quantization=int8"), "quantization=int8 is not made for stand-ins"),
    (("model_pair=llama7b_160m", "model_pair.draft.shape.kv_heads=1"), "model_pair.draft.shape.kv_heads=1"),
    (("model_pair=llama7b_160m", "model_pair.draft.weights=real"), "does not go with weights=standin"),
    (("model_pair=vicuna7b", "method=medusa"), "no Medusa heads are known"),
])  # fmt: skip
def test_what_stand_ins_cannot_do_is_told_before_weights_are_made(overrides, words, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.experiment.places.OwnModels.open", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match=words):
        run(composed("model_pair.weights=standin", *overrides), tmp_path)


def test_an_unknown_kind_of_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="model_pair.weights=fake is unknown"):
        run(composed("model_pair.weights=fake"), tmp_path)


# Published sizes, from the models' cards: parameters of the checkpoints on the Hub

PUBLISHED = {
    "llama7b_160m": (6_738_415_616, 162_417_408),
    "llama7b_68m": (6_738_415_616, 68_030_208),
    "llama13b_160m": (13_015_864_320, 162_417_408),
    "llama13b_7b": (13_015_864_320, 6_738_415_616),
    "llama70b_7b": (68_976_648_192, 6_738_415_616),
    "tinyllama": (6_738_415_616, 1_100_048_384),
    "vicuna7b": (6_738_415_616, 68_030_208),
    "vicuna13b": (13_015_864_320, 68_030_208),
    "vicuna33b": (32_528_943_616, 68_030_208),
    "deepseek_coder": (6_740_512_768, 1_346_471_936),
    "llama32_3b_1b": (3_212_749_824, 1_235_814_400),
    "qwen25_1b5_0b5": (1_543_714_304, 494_032_768),
    "qwen25_7b_0b5": (7_615_616_512, 494_032_768),
    "pythia_2b8_70m": (2_775_208_960, 70_426_624),
    "pythia_6b9_70m": (6_857_302_016, 70_426_624),
    "bloomz7b_560m": (7_069_016_064, 559_214_592),
    "gpt2l_distilgpt2": (774_030_080, 81_912_576),
    "gpt2xl_distilgpt2": (1_557_611_200, 81_912_576),
    "gptneo_xsum": (1_315_575_808, 125_198_592),
}
WITHOUT = {"custom", "standin_320m", "tiny", "tiny_t5", "flan_t5_xxl"}  # no models in mind, the pair itself, and encoder-decoders


def test_every_named_pair_has_a_size():
    assert set(PUBLISHED) | WITHOUT == set(PAIR_NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_pairs_stand_ins_have_the_published_number_of_parameters(name):
    from specexp.cli.jobs import build

    pair = build(composed(f"model_pair={name}", "model_pair.weights=standin").model_pair)
    for side, published in zip(("target", "draft"), PUBLISHED[name], strict=True):
        spec = getattr(pair, side)
        with torch.device("meta"):
            model = LlamaForCausalLM(load_config(spec, f"model_pair.{side}"))
        assert model.num_parameters() == spec.shape.parameters
        assert abs(spec.shape.parameters / published - 1) < 0.02
