"""Of every model type that masks of ours are given to: trees and chains from the cache are what the whole text gives, and windows are kept."""

import pytest
import torch
import transformers as t
from tiers import tiered

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.runners import calls
from specexp.runners.compiled import CompiledRunner
from specexp.runners.lengths import slides, within_window
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner
from specexp.runners.static import StaticRunner

VOCAB, WINDOW = 200, 24
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
HEADS = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
SHARED = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4}
DEEPSEEK = LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
SLIDING = {"sliding_window": WINDOW, "num_hidden_layers": 4}
SOFT = HEADS | SLIDING | {"query_pre_attn_scalar": 16}

FULL = {  # model type: what its configuration has beyond SHAPE, or a whole one
    **{kind: {} for kind in ("llama", "gemma", "cohere", "olmo2", "smollm3", "stablelm", "granite", "nemotron", "diffllama", "apertus", "arcee", "doge")},
    **{kind: {} for kind in ("qwen2", "phi", "gpt_neox", "persimmon", "biogpt")},
    **{kind: {"sliding_window": None} for kind in ("mistral", "starcoder2")},
    **{kind: HEADS for kind in ("qwen3", "glm4", "helium", "seed_oss")},
    "phi3": {"pad_token_id": 0}, "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2_moe": EXPERTS | SHARED, "qwen3_moe": EXPERTS | SHARED | HEADS, "olmoe": EXPERTS, "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": DEEPSEEK | {"head_dim": 8}, "deepseek_v3": DEEPSEEK,
}  # fmt: skip
WHOLE = {
    "gpt2": GPT, "gpt_bigcode": GPT | {"multi_query": True}, "codegen": GPT | {"rotary_dim": 8}, "gptj": GPT | {"rotary_dim": 8},
    "opt": {"hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512, "word_embed_proj_dim": 32},
    "xglm": {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96, "max_position_embeddings": 512},
}  # fmt: skip
WINDOWED = {
    "mistral": SLIDING, "ministral": SLIDING | HEADS, "gemma2": SOFT, "gemma3_text": SOFT | {"num_hidden_layers": 6}, "vaultgemma": SOFT,
    "qwen2": SLIDING | {"use_sliding_window": True, "max_window_layers": 2}, "qwen3": SLIDING | HEADS | {"use_sliding_window": True, "max_window_layers": 2},
    "cohere2": SLIDING, "olmo3": SLIDING, "exaone4": SLIDING | {"sliding_window_pattern": 4},
    "gpt_oss": SLIDING | HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma3n_text": SLIDING | HEADS | {
        "num_hidden_layers": 5, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 16, "laurel_rank": 8, "altup_num_inputs": 2,
        "intermediate_size": [96] * 5, "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention", "full_attention"], "activation_sparsity_pattern": [0.0] * 5,
    },
}  # fmt: skip
PARENTS = (-1, -1, 0, 0, 1, 3, 3)
TREE, CHAIN = Draft.of_nodes([5, 9, 11, 13, 17, 19, 23], PARENTS), Draft.of_ids([5, 9, 11, 13])
TEXT = [(7 * i * i + 3 * i) % (VOCAB - 10) + 2 for i in range(60)]
CASES = {(kind, False): FULL.get(kind) or WHOLE.get(kind) or {} for kind in (*FULL, *WHOLE)} | {(kind, True): WINDOWED[kind] for kind in WINDOWED}


def build(kind, windowed=False):
    own = CASES[kind, windowed]
    config = t.AutoConfig.for_model(kind, **(own if kind in WHOLE else SHAPE | own), vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, **{"pad_token_id": 0} if "pad_token_id" not in own else {})
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False).float()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.25)
    return model


def furthest(runner, alone, lengths=(30, 45, 60), drafts=(CHAIN, TREE)):
    """The largest difference of a logit, in units of the row's spread, along a text that grows by several tokens a pass."""
    found = 0.0
    for draft in drafts:
        runner.start(TEXT[: lengths[0]], 64)
        for length in lengths:
            ours, theirs = (each.logits(Context(TEXT[:length]), draft, rows=len(draft) + 1) for each in (runner, alone))
            found = max(found, float((ours - theirs).abs().max() / theirs.std()))
    return found


def test_every_listed_type_is_tested():
    assert {*FULL, *WHOLE} == calls._OWN_MASKS - {"t5", "mt5"} and set(WINDOWED) == calls._WINDOWED  # of the T5 family: test_encoder_decoder.py


@pytest.mark.parametrize("case", tiered(list(CASES), [("llama", False), ("phi3", False), ("gemma3_text", True), ("mistral", True)]))
@torch.inference_mode()
def test_trees_and_chains_are_what_the_whole_text_gives(case):
    kind, windowed = case
    model = build(kind, windowed)
    assert slides(model.config) is windowed
    runner = ModelRunner(model)
    assert runner.facts.trees
    assert furthest(runner, StatelessRunner(model)) < 1e-4


@pytest.mark.parametrize("kind", tiered([kind for kind in WINDOWED if kind != "ministral"], ["gemma3_text"]))
@torch.inference_mode()
def test_a_mask_without_the_window_would_be_noticed(kind, monkeypatch):
    model = build(kind, windowed=True)
    monkeypatch.setattr(calls.Architecture, "tree_masks", lambda self, mask, *_: mask)
    assert furthest(ModelRunner(model), StatelessRunner(model), drafts=(TREE,)) > 1e-2


@torch.inference_mode()
def test_other_caches_are_right_within_the_window():
    for kind, runner in (("gemma3_text", StaticRunner), ("mistral", StaticRunner), ("mistral", CompiledRunner), ("mistral", SinkRunner)):
        CASES[kind, True] = WINDOWED[kind] | {"sliding_window": 96}
        try:
            model = build(kind, windowed=True)
        finally:
            CASES[kind, True] = WINDOWED[kind]
        limited = runner(model) if runner is not SinkRunner else runner(model, max_length=96)
        assert within_window(512, model.config) == 96
        assert runner is SinkRunner or runner.longest_text(model.config, "m") == 96
        assert furthest(limited, StatelessRunner(model)) < 1e-4
