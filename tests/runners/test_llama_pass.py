"""The pass with few launches, and the compiled one, against transformers' own forward of the same weights."""

import shutil

import pytest
import torch
from tiny_models import build

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.errors import UserError
from specexp.runners.calls import DecoderOnlyPass
from specexp.runners.compiled import PART, CompiledRunner
from specexp.runners.llama import LAYOUT, LlamaPass, few_rows, packed, packed_rows, packs
from specexp.runners.runner import KnownIds, ModelRunner

IDS = [int(i) for i in torch.randint(96, (60,), generator=torch.Generator().manual_seed(1))]


def by_transformers(model):
    runner = ModelRunner(model)
    runner._pass = DecoderOnlyPass(model, runner.architecture, KnownIds(model, None))
    return runner


def drafts():
    chains = [Draft.of_ids(IDS[5 : 5 + length]) for length in (0, 1, 4, 7, 11, 30)]
    return [*chains, Draft.of_nodes(IDS[3:9], (-1, -1, 0, 0, 1, 2))]


def poison(cache):
    """What a slot holds that nothing was written to may be anything, and must not matter."""
    for buffer in (*cache.keys, *cache.values):
        buffer[:, :, cache.length :] = float("nan")


@torch.inference_mode()
def assert_same(runner, reference, dtype):
    bound = 1e-9 if dtype == torch.float64 else 2e-5
    for each in (runner, reference):
        each.start(IDS[:20], 100)
    context = Context(IDS[:20], capacity=100)
    for draft in drafts():  # the first is the prefill
        poison(runner.cache)
        ours, theirs = (each.logits(context, draft, len(draft) + 1) for each in (runner, reference))
        assert (ours - theirs).abs().max() < bound * theirs.abs().max()
        context.append(IDS[20:22])
    for _ in range(3):  # a token after another, as without drafts
        context.append(IDS[22:23])
        ours, theirs = (each.logits(context, Draft.of_ids([]), 1) for each in (runner, reference))
        assert (ours - theirs).abs().max() < bound * theirs.abs().max()
    siblings = Draft.of_nodes(IDS[3:5], (-1, -1))
    for draft in (siblings, siblings.grow(torch.tensor(IDS[5:6]), (0,))):  # one row, which sees all but its uncle
        ours, theirs = (each.logits(context, draft, 1) for each in (runner, reference))
        assert (ours - theirs).abs().max() < bound * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", sorted(LAYOUT))
def test_logits_are_those_of_transformers_forward(kind, dtype):
    model = build(kind, dtype=dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.copy_(1 + torch.rand_like(parameter))
    reference = by_transformers(build(kind, dtype=dtype))
    reference.model.load_state_dict(model.state_dict())
    runner = ModelRunner(model)
    assert type(runner._pass) is LlamaPass
    assert_same(runner, reference, dtype)
    assert_same(by_transformers(model), reference, dtype)  # the model itself is still whole


def test_16_bits_round_where_transformers_rounds():
    model = build("llama", dtype=torch.bfloat16)
    ours, theirs = ModelRunner(model), by_transformers(model)
    with torch.inference_mode():
        for each in (ours, theirs):
            each.start(IDS, 10)
        context = Context(IDS)
        a, b = (each.logits(context, Draft.of_ids(IDS[:4]), 5).float() for each in (ours, theirs))
    assert (a - b).abs().max() < 0.04 * b.abs().max()


def test_fused_weights_take_no_memory_of_their_own_and_serve_every_runner():
    model = build("qwen2")
    first, second = ModelRunner(model)._pass, ModelRunner(model)._pass
    for ours, theirs, layer in zip(first.layers, second.layers, model.model.layers, strict=True):
        assert ours.query_key_value.data_ptr() == theirs.query_key_value.data_ptr() == layer.self_attn.q_proj.weight.data_ptr()
        assert ours.gate_up.data_ptr() == theirs.gate_up.data_ptr() == layer.mlp.gate_proj.weight.data_ptr()
        assert ours.bias.data_ptr() == layer.self_attn.q_proj.bias.data_ptr()
    model.model.layers[0].mlp.up_proj.weight[3, 3] = 7.0
    assert (first.layers[0].gate_up == 7.0).sum() == 1


def test_neighbours_in_one_storage_that_do_not_adjoin_are_fused_anew():
    model = build("llama")
    attention = model.model.layers[0].self_attn
    pool = torch.randn(10_000)
    for offset, projection in ((0, attention.k_proj), (2000, attention.v_proj), (4000, attention.q_proj)):
        projection.weight.data = pool[offset : offset + projection.weight.numel()].view_as(projection.weight)
    parts = [attention.q_proj.weight.clone(), attention.k_proj.weight.clone(), attention.v_proj.weight.clone()]
    assert torch.equal(ModelRunner(model)._pass.layers[0].query_key_value, torch.cat(parts))


def changed(**changes):
    return lambda: build("llama", **changes)


def hooked():
    model = build("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    return model


def other_linear():
    class Quantised(torch.nn.Linear):
        pass

    model = build("llama")
    model.model.layers[1].mlp.down_proj.__class__ = Quantised
    return model


@pytest.mark.parametrize(
    "make",
    [
        changed(mlp_bias=True),
        changed(attention_bias=True),
        changed(hidden_act="gelu"),
        changed(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        lambda: build("mistral_sliding"),
        lambda: build("qwen3"),
        lambda: build("gpt2"),
        hooked,
        other_linear,
    ],
)
def test_what_it_does_not_compute_is_left_to_transformers(make):
    model = make()
    assert not LlamaPass.runs(model)
    assert type(ModelRunner(model)._pass) is DecoderOnlyPass


def test_eager_attention_is_left_to_transformers():
    model = build("llama")
    model.set_attn_implementation("eager")
    assert not LlamaPass.runs(model)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("outputs", [7, 64])
def test_products_of_a_few_rows(outputs, biased):
    weight, bias = torch.randn(outputs, 24, dtype=torch.float64), torch.randn(outputs, dtype=torch.float64) if biased else None
    for rows in (1, 2, 5, 8, 9, 20):
        states = torch.randn(rows, 24, dtype=torch.float64)
        found = few_rows(states, weight, bias)
        assert found.is_contiguous()
        assert torch.allclose(found, torch.nn.functional.linear(states, weight, bias), atol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_packed_products(biased):
    torch.manual_seed(0)
    weight, bias = torch.randn(30, 24), torch.randn(30) if biased else None
    assert packs(weight) and not packs(weight.double())
    for rows in (1, 2, 5, 9, 20):
        states = torch.randn(rows, 24)
        assert torch.allclose(packed_rows(states, packed(weight), bias), torch.nn.functional.linear(states, weight, bias), atol=1e-5)


def test_weights_are_packed_once_for_all_runners_of_a_model():
    model = build("llama")
    one, other = CompiledRunner(model), CompiledRunner(model)
    assert one._pass.wide is other._pass.wide
    assert CompiledRunner(build("llama"))._pass.wide is not one._pass.wide


@pytest.mark.parametrize("kind", sorted(LAYOUT))
def test_what_is_compiled_is_the_same_function(kind, monkeypatch):
    """Run as plain torch: what pads a few rows to a whole part, and where those rows write, is not the compiler's business."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = build(kind)
    runner = CompiledRunner(model)
    assert not runner.ready(1) and not runner.ready(2) and runner.ready(PART + 1)
    assert_same(runner, by_transformers(model), torch.float32)
    assert runner.ready(1) and runner.ready(2)


@torch.inference_mode()
def assert_same_to_the_end(runner, reference):
    """Of a text that was announced as just so long."""
    for each in (runner, reference):
        each.start(IDS[:20], 8)
    for length in range(20, 28):
        for draft in (Draft.of_ids([]), Draft.of_ids(IDS[length : length + 1])):
            context = Context(IDS[:length])
            ours, theirs = (each.logits(context, draft, 1 + len(draft)) for each in (runner, reference))
            assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()
    draft = Draft.of_ids(IDS[3:4])
    for node in range(-1, 11):  # a tree, whose nodes may come to lie far behind the text: in the last slot there is, and further
        ours, theirs = (each.logits(context, draft, 1) for each in (runner, reference))
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()
        draft = draft.grow(torch.tensor(IDS[node + 1 : node + 2]), (node,))
    assert runner.kv_bytes == reference.kv_bytes  # what only fills a part up is nothing that is kept


def test_a_part_that_reaches_behind_the_text(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = build("llama")
    assert_same_to_the_end(CompiledRunner(model), by_transformers(model))


@torch.inference_mode()
def test_a_first_draft_that_is_wider_than_a_part_compiles_the_rest_too(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    runner = CompiledRunner(build("llama"))
    context = Context(IDS[:20])
    runner.start(context.ids, 30)
    runner.logits(context, Draft.of_ids([]), 1)
    context.append(IDS[20:21])
    runner.logits(context, Draft.of_ids(IDS[: PART + 3]), PART + 4)
    assert runner.ready(1) and runner.ready(2)


def test_large_layers_are_not_compiled(monkeypatch):
    """Their products are faster in the library: a single token must not get slower by being compiled."""
    monkeypatch.setattr("specexp.runners.compiled.LARGEST", 100)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda *_: pytest.fail("compiled"))
    model = build("llama")
    runner = CompiledRunner(model)
    assert runner.ready(1) and not runner._pass.compiled
    assert_same(runner, by_transformers(model), torch.float32)
    assert runner.ready(1) and not runner._pass.compiled


def test_compiling_says_what_it_cannot_run(monkeypatch):
    with pytest.raises(UserError, match="gpt2 model, and cache=compiled knows llama, mistral, qwen2: choose cache=full"):
        CompiledRunner.longest_text(build("gpt2").config, "m")
    with pytest.raises(UserError, match="cannot run this llama model"):
        CompiledRunner(hooked())
    with pytest.raises(UserError, match="made for CPUs, and this model is on meta"):
        CompiledRunner(build("llama").to("meta"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        CompiledRunner.longest_text(build("llama").config, "m")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LAYOUT))
@torch.inference_mode()
def test_compiled_logits_are_those_of_transformers_forward_and_all_is_compiled_at_once(kind):
    model = build(kind)
    runner, reference = CompiledRunner(model), by_transformers(model)
    for length in (4, 5):  # the prompt and a single token behind it
        runner.logits(Context(IDS[:length]), Draft.of_ids([]), 1)
    torch._dynamo.utils.counters.clear()
    assert_same(runner, reference, torch.float32)
    assert_same(CompiledRunner(model), reference, torch.float32)
    assert_same_to_the_end(CompiledRunner(model), reference)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_a_part_may_reach_behind_the_positions_that_the_model_says_it_has(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = build("llama", max_position_embeddings=28)
    assert_same_to_the_end(CompiledRunner(model), by_transformers(model))
