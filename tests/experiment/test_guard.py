"""A model that is wrong with its cache is refused before anything is decoded, and a model that is right passes."""

import pytest
import torch
import transformers as t
from tiers import tiered
from tiny_models import CONFIGS, ENCODER_DECODER, VOCAB, build, build_encoder_decoder

from specexp.decoding.decoder import Decoder
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import NoDraft
from specexp.errors import UserError
from specexp.experiment.guard import guard, guarded
from specexp.runners.beams import beam_runner
from specexp.runners.lengths import keeps_state
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner
from specexp.runners.static import StaticRunner

PROMPT = [5, 9, 2, 77, 31, 8, 40, 12, 3]
SMALL = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def odd(config):
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "A_log" not in name and "conv" not in name:
            parameter.normal_(0.0, 0.3)
    return model


ODD = {  # models of transformers that do not write into the cache that they are given, or keep states
    "openai-gpt": lambda: t.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SMALL),
    "mamba": lambda: t.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **SMALL),
    "xlm": lambda: t.XLMConfig(emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64, causal=True, **SMALL),
    "lfm2": lambda: t.Lfm2Config(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"], block_multiple_of=16, **SMALL),
    "recurrent_gemma": lambda: t.RecurrentGemmaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, lru_width=32, attention_window_size=24, **SMALL),
}  # fmt: skip


@pytest.mark.parametrize("kind", tiered(CONFIGS.keys(), ["llama", "gpt2", "gpt_neo", "bloom", "mistral_sliding"]))
def test_models_that_are_right_pass(kind):
    model = build(kind)
    guard([("target", ModelRunner(model)), ("draft", StatelessRunner(model))], PROMPT)


@pytest.mark.parametrize("kind", tiered(ENCODER_DECODER, ["relu_tied", "mt5"]))
def test_encoder_decoder_models_that_are_right_pass(kind):
    model = build_encoder_decoder(kind)
    guard([("target", ModelRunner(model)), ("target", StatelessRunner(model))], PROMPT)


def test_every_cache_passes_and_is_left_empty():
    for runner in (ModelRunner(build("llama")), SinkRunner(build("llama")), StaticRunner(build("llama"))):
        guard([("target", runner)], PROMPT)
        assert runner.usage().forwards == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_16_bit_types_is_no_mistake(dtype):
    for kind in ("llama", "gpt2"):
        guard([("target", ModelRunner(build(kind, dtype=dtype)))], PROMPT)


@pytest.mark.parametrize("kind", list(ODD))
def test_a_model_that_is_wrong_with_its_cache_is_refused_by_name_and_right_without(kind):
    model = odd(ODD[kind]())
    with pytest.raises(UserError, match=f"the target model, a {kind}, .* choose cache=none, with which it is right"):
        guard([("target", ModelRunner(model))], PROMPT)
    guard([("target", StatelessRunner(model))], PROMPT)


@pytest.mark.parametrize("kind", ["mamba", "lfm2", "recurrent_gemma"])
def test_a_model_with_states_is_refused_before_its_weights_are_loaded(kind):
    config = ODD[kind]()
    assert keeps_state(config) and not keeps_state(CONFIGS["llama"]())
    with pytest.raises(UserError, match=f"NAME is a {kind} model, some layers of which keep a state .* choose cache=none"):
        ModelRunner.longest_text(config, "NAME")
    assert StatelessRunner.longest_text(config, "NAME") is None or StatelessRunner.longest_text(config, "NAME") > 0


def test_a_model_that_looks_ahead_is_refused_with_every_cache():
    model = odd(t.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, is_decoder=False, **SMALL))
    for runner in (ModelRunner(model), StatelessRunner(model)):
        with pytest.raises(UserError, match="the draft model, a bert, looks at later tokens, .*; choose a causal language model"):
            guard([("draft", runner)], PROMPT)


class Forgetful(ModelRunner):
    """Loses the oldest keys of every layer, or never fills one layer's place."""

    def _forward(self, tokens, positions, mask, rows):
        logits = super()._forward(tokens, positions, mask, rows)
        for keys in self.cache.keys:
            keys[:, :, 0] = 0
        return logits


def test_a_cache_that_loses_a_token_is_noticed():
    with pytest.raises(UserError, match="a llama, gives other logits from its cache than without one"):
        guard([("target", Forgetful(build("llama")))], PROMPT)
    with pytest.raises(UserError, match="gives other logits"):
        guard([("target", Forgetful(build("llama", dtype=torch.bfloat16)))], PROMPT)


def test_a_layer_that_keeps_nothing_is_noticed(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(model.config, "num_hidden_layers", 3)
    with pytest.raises(UserError, match="keeps the keys and values of 2 of its 3 layers only"):
        guard([("target", ModelRunner(model))], PROMPT)


def test_a_model_that_cannot_read_at_all_is_told(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match="the target model, a llama, cannot read a text .ZeroDivisionError: division by zero.; choose another"):
        guard([("target", StatelessRunner(model))], PROMPT)


def test_memory_that_ran_out_is_not_the_models_fault(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    model = build("llama")
    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        guard([("target", StatelessRunner(model))], PROMPT)


def test_each_kind_of_runner_is_checked_once():
    model = build("llama")
    decoders = [Decoder(kind(model), NoDraft(), RejectionVerifier()) for kind in (ModelRunner, ModelRunner, StatelessRunner)]
    assert [(role, runner.facts.kind) for role, runner in guarded(decoders)] == [("target", "full"), ("target", "none")]


def test_the_texts_of_a_beam_search_are_checked_as_one_text_is():
    class Beams:
        target, drafter = beam_runner(ModelRunner(build("llama"))), NoDraft()

    [(role, runner)] = guarded([Beams()])
    assert role == "target" and type(runner) is ModelRunner
