"""Models in other forms than save_pretrained's: .gguf files of llama.cpp, and adapters (PEFT) with their base model."""

import json
import shutil

import pytest
import torch
from running import composed, run

from specexp.assets import asset_path
from specexp.errors import UserError
from specexp.models import loading, preflight
from specexp.models.loading import load_model
from specexp.models.pair import ModelPair
from specexp.models.spec import ModelSpec
from specexp.runners.llama import LlamaPass
from specexp.tracking.records import read_records

BASE = "asset:tiny/draft"
IDS = torch.tensor([[5, 17, 33, 60, 5]])


@pytest.fixture(autouse=True)
def forgotten():
    loading.keep_only({})
    yield
    loading.keep_only({})


def write_gguf(directory, model, rope_dim):
    """The model as llama.cpp keeps a Llama: its names, and the rows of queries and keys in its order."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(directory / "model.F32.gguf"), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(rope_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    for name, weight in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        if name not in top:
            _, _, layer, rest = name.split(".", 3)
            name = f"blk.{layer}.{names[rest.removesuffix('.weight')]}.weight"
        writer.add_tensor(top.get(name, name), weight.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("packed")
    model = load_model(ModelSpec(BASE, dtype="float32", device="cpu"))
    write_gguf(directory, model, model.config.hidden_size // model.config.num_attention_heads)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(asset_path(BASE) / file, directory)
    return directory


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    directory = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = get_peft_model(load_model(ModelSpec(BASE, dtype="float32", device="cpu")), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    with torch.inference_mode():
        logits = model(IDS).logits
    model.save_pretrained(directory)
    content = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": BASE}))
    return directory, logits


def test_a_packed_model_is_the_model(packed):
    ours, theirs = (load_model(spec) for spec in (ModelSpec(str(packed), gguf_file="model.F32.gguf", dtype="float32", device="cpu"), ModelSpec(BASE, dtype="float32", device="cpu")))
    with torch.inference_mode():
        assert torch.allclose(ours(IDS).logits, theirs(IDS).logits, atol=1e-4)
    assert LlamaPass.runs(ours)  # nothing takes it for a quantised model


def test_a_run_with_a_packed_draft(packed, tmp_path):
    chosen = ["model_pair=custom", "model_pair.tables=tiny", "model_pair.target.name=asset:tiny/target", f"model_pair.draft.name={packed}", "model_pair.draft.gguf_file=model.F32.gguf"]
    run(composed(*chosen), tmp_path / "packed")
    run(composed(), tmp_path / "plain")
    ours, theirs = (read_records(tmp_path / name) for name in ("packed", "plain"))
    assert [record.method.rounds for record in ours] == [record.method.rounds for record in theirs]


def test_an_adapter_is_merged_into_its_base(adapter, tmp_path):
    directory, logits = adapter
    spec = ModelSpec(str(directory), dtype="float32", device="cpu")
    with torch.inference_mode():
        assert torch.allclose(load_model(spec)(IDS).logits, logits, atol=1e-4)
    assert not any(hasattr(module, "lora_A") for module in load_model(spec).modules())
    assert ModelPair("a", spec).load_tokenizer().get_vocab() == ModelPair("b", ModelSpec(BASE)).load_tokenizer().get_vocab()
    chosen = ["model_pair=custom", "model_pair.tables=tiny", "model_pair.target.name=asset:tiny/target", f"model_pair.draft.name={directory}"]
    run(composed(*chosen), tmp_path)
    assert len(read_records(tmp_path)) == 2


def test_what_is_wrong_with_a_packed_file(packed, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"gguf_file=other.gguf is not in .*: it holds model.F32.gguf"):
        loading.preflight(ModelSpec(str(packed), gguf_file="other.gguf"))
    with pytest.raises(UserError, match="model_pair.target.name=.* holds weights in llama.cpp's format: give model_pair.target.gguf_file=model.F32.gguf too"):
        loading.preflight(ModelSpec(str(packed)))
    with pytest.raises(UserError, match=r"is a file: give model_pair.target.name=.* model_pair.target.gguf_file=model.F32.gguf"):
        loading.preflight(ModelSpec(str(packed / "model.F32.gguf")))
    with pytest.raises(UserError, match="quantization=int8 does not go with gguf_file=model.F32.gguf"):
        ModelSpec(str(packed), gguf_file="model.F32.gguf", quantization="int8")
    with pytest.raises(UserError, match="it holds no .gguf file"):
        loading.preflight(ModelSpec(str(tmp_path), gguf_file="x.gguf"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(ModelSpec(str(tmp_path), gguf_file="x.gguf", device="cpu"))
    monkeypatch.setattr(preflight, "_on_hub", lambda *_: False)
    monkeypatch.setattr(preflight, "offline", lambda: False)
    with pytest.raises(UserError, match="gguf_file=x.gguf is not in someone/packed on the Hub"):
        loading.preflight(ModelSpec("someone/packed", gguf_file="x.gguf"))


def test_what_is_wrong_with_an_adapter(adapter, tmp_path, monkeypatch):
    directory, _ = adapter
    broken = shutil.copytree(directory, tmp_path / "broken")
    with pytest.raises(UserError, match="gguf_file=x does not go with .*, which is an adapter"):
        loading.preflight(ModelSpec(str(broken), gguf_file="x"))
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="is an adapter without adapter_model.safetensors"):
        loading.preflight(ModelSpec(str(broken)))
    (broken / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(ModelSpec(str(broken), device="cpu"))
    other = shutil.copytree(directory, tmp_path / "other")
    content = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": "asset:tiny/target"}))
    with pytest.raises(UserError, match="cannot be loaded: it does not fit its base model"):
        load_model(ModelSpec(str(other), device="cpu"))
    for text in ("[]", "{", json.dumps({"base_model_name_or_path": None})):
        (other / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match="is an adapter whose adapter_config.json names no base model; add base_model_name_or_path"):
            loading.preflight(ModelSpec(str(other)))


def test_packages_that_are_missing_are_named_with_their_extra(packed, adapter, monkeypatch):
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gguf_file=model.F32.gguf needs the package gguf: pip install 'specexp\[gguf\]'"):
        loading.preflight(ModelSpec(str(packed), gguf_file="model.F32.gguf"))
    with pytest.raises(UserError, match=r"an adapter, needs the package peft: pip install 'specexp\[peft\]'"):
        loading.preflight(ModelSpec(str(adapter[0])))
