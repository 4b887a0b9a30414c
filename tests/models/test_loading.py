"""Loading models and tokenizers, and refusing them before anything heavy happens; every model pair's configuration."""

import inspect
import json
import socket
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pairs import PAIR_NAMES, PAIRS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

import specexp.datasets.files
from specexp.errors import UserError
from specexp.models import loading, preflight
from specexp.models.loading import ModelSpec, load_config, load_model
from specexp.models.pair import ModelPair, check_same_tokenizer, forget_tokenizers, load_tokenizer, stop_ids
from specexp.models.spec import LlamaShape
from specexp.runners.lengths import context_length

WORDS = ["a", "b", "c", "<end>"]


def make_tokenizer(words=WORDS, **roles):
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=words[0], eos_token="<end>", **roles)


def make_model(vocabulary=8, **settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape, **settings))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    make_model().to(torch.bfloat16).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No memo of another test, and an empty Hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    loading.keep_only({})
    forget_tokenizers()
    specexp.datasets.files._answers.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(specexp.datasets.files, "_answers", lambda host, port: False)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(specexp.datasets.files, "_answers", lambda host, port: True)


def copy_of(directory, path, without=()):
    path.mkdir(parents=True)
    for file in directory.iterdir():
        if file.name not in without:
            (path / file.name).write_bytes(file.read_bytes())
    return path


def put_in_cache(directory, name, without=()):
    """The layout of the Hub's cache: one snapshot that `main` points at."""
    repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    copy_of(directory, repository / "snapshots" / ("0" * 40), without)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


# Loading


def test_a_directory_loads_once_ready_for_inference(directory, monkeypatch):
    monkeypatch.setattr(loading, "_count", lambda kind: int(kind == "cpu"))
    model = load_model(ModelSpec(str(directory), device="cpu"))
    assert load_model(ModelSpec(str(directory), device="auto")) is model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 8)


@pytest.mark.parametrize(("asked", "got"), [("auto", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)])
def test_dtype(directory, asked, got):
    assert load_model(ModelSpec(str(directory), dtype=asked, device="cpu")).dtype == got


def test_no_bar_is_drawn_into_a_log(directory, capfd):
    from transformers.utils.logging import enable_progress_bar

    loading.keep_only({})
    enable_progress_bar()
    try:
        load_model(ModelSpec(str(directory)))
    finally:
        enable_progress_bar()
    assert "Loading weights" not in capfd.readouterr().err


def test_another_dtype_is_another_model(directory):
    wide, narrow = (load_model(ModelSpec(str(directory), dtype=dtype, device="cpu")) for dtype in ("float32", "bfloat16"))
    assert torch.equal(wide.lm_head.weight, narrow.lm_head.weight.float())
    assert wide is not narrow


def test_attention_implementation(directory):
    assert load_model(ModelSpec(str(directory), device="cpu", attn_implementation="eager")).config._attn_implementation == "eager"
    with pytest.raises(UserError, match="cannot be loaded: .*nonsense"):
        load_model(ModelSpec(str(directory), device="cpu", attn_implementation="nonsense"))


def test_a_new_pair_takes_the_place_of_the_one_before(directory, tmp_path):
    """Weights, stand-ins' too, and tokenizers; as long as the target stays, so do the drafts that a method does without."""
    other, sole = ModelSpec(str(copy_of(directory, tmp_path / "other")), device="cpu"), ModelSpec(str(directory), device="cpu")
    pair, again = ModelPair("one", other, sole), ModelPair("one", other)
    pair.release_others()
    held = [weakref.ref(each) for each in (load_model(other), load_model(sole), pair.load_tokenizer())]
    again.release_others()
    pair.release_others()
    assert load_model(other) is held[0]() and load_model(sole) is held[1]() and pair.load_tokenizer() is held[2]()
    ModelPair("one", other, replace(sole, dtype="float32")).release_others()  # another draft
    assert held[0]() and held[2]() and not held[1]()
    shape = LlamaShape(layers=26, hidden=256, intermediate=512, heads=8, kv_heads=4, head_dim=64, vocab=4096)
    standin = ModelSpec("someone/x", "float32", "cpu", weights="standin", grown_from="asset:tiny/target", shape=shape)
    grown = ModelPair("grown", standin, weights="standin")
    grown.release_others()
    assert not any(each() for each in held)
    held = [weakref.ref(load_model(standin)), weakref.ref(grown.load_tokenizer())]
    pair.release_others()
    assert not any(each() for each in held)


def test_a_draft_that_two_pairs_share_stays(directory, tmp_path):
    targets = [ModelSpec(str(copy_of(directory, tmp_path / name)), device="cpu") for name in ("one", "two")]
    draft, models = ModelSpec(str(directory), device="cpu"), []
    for target in targets:
        ModelPair("p", target, draft).release_others()
        models.append((weakref.ref(load_model(target)), load_model(draft)))
    assert models[0][1] is models[1][1] and not models[0][0]() and models[1][0]()


def test_memory_that_an_earlier_pair_holds_is_given_back(directory, monkeypatch):
    earlier = load_model(ModelSpec(str(directory), device="cpu"))
    build, failures = loading._build, [torch.OutOfMemoryError()]
    monkeypatch.setattr(loading, "_build", lambda spec: build(spec) if not failures else (_ for _ in ()).throw(failures.pop()))
    load_model(ModelSpec(str(directory), dtype="float32", device="cpu"))
    assert load_model(ModelSpec(str(directory), device="cpu")) is not earlier


def test_a_model_too_large_is_refused_in_a_sentence(directory, monkeypatch):
    monkeypatch.setattr(loading, "_build", lambda spec: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(UserError, match="does not fit on cpu: .*quantization=int8"):
        load_model(ModelSpec(str(directory), device="cpu"))


def test_parameters_without_weights_are_not_filled_with_noise(directory, tmp_path):
    path = copy_of(directory, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(UserError, match=r"no weights for 9 parameters \(model.layers.1"):
        load_model(ModelSpec(str(path), device="cpu"))


def test_a_damaged_checkpoint_is_refused_in_a_sentence(directory, tmp_path):
    path = copy_of(directory, tmp_path / "model")
    (path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(ModelSpec(str(path), device="cpu"))


def test_pickled_weights_need_permission(directory, tmp_path):
    path = copy_of(directory, tmp_path / "model", without=["model.safetensors"])
    torch.save(make_model().state_dict(), path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no safetensors .*model_pair.draft.allow_pickle=true"):
        loading.preflight(ModelSpec(str(path)), "model_pair.draft")
    model = load_model(ModelSpec(str(path), device="cpu", allow_pickle=True))
    assert torch.equal(model.lm_head.weight, make_model().lm_head.weight.to(model.dtype))


@pytest.mark.parametrize("cut", [{"intermediate_size": 48}, {"num_attention_heads": 4, "head_dim": 16}])
def test_weights_of_another_shape_than_the_configuration_asks_for_are_named(directory, tmp_path, cut):
    place = copy_of(directory, tmp_path / "mixed")
    config = json.loads((place / "config.json").read_text()) | cut
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"weight is \[\d+, \d+\] and its config.json asks for \[\d+, \d+\], so weights and config.json belong to different"):
        load_model(ModelSpec(str(place)))


# Values


@pytest.mark.parametrize("bad", [{"quantization": "int3"}, {"dtype": "float8"}, {"dtype": "fp16"}])
def test_unknown_values_are_refused_with_the_known_ones(bad):
    (key, value), = bad.items()
    with pytest.raises(UserError, match=f"{key}={value} is unknown: choose one of (auto, float32|none, int8)"):
        ModelSpec("x/y", **bad)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "npu"])
def test_an_absent_device_is_refused_before_loading(name, directory, monkeypatch):
    monkeypatch.setattr(loading, "_count", lambda kind: int(kind == "cpu"))
    monkeypatch.setattr(loading, "_build", lambda spec: pytest.fail("loaded"))
    with pytest.raises(UserError, match=f"device={name} is not on this machine.*device=cpu"):
        load_model(ModelSpec(str(directory), device=name))


def test_devices_are_detected_in_order_and_counted(monkeypatch):
    here = {"cuda": 2, "mps": 1, "npu": 0, "cpu": 1}
    monkeypatch.setattr(loading, "_count", here.get)
    assert loading.resolve_device("auto") == "cuda" and loading.resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="cuda:2 is not on this machine, which has 2"):
        loading.resolve_device("cuda:2")
    here["cuda"] = 0
    assert loading.resolve_device("auto") == "mps"
    with pytest.raises(UserError, match="device=gpu is unknown"):
        loading.resolve_device("gpu")


def test_quantisation_names_what_is_missing(directory, monkeypatch):
    spec = ModelSpec(str(directory), quantization="int8", device="cpu")
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="quantization=int8 needs bitsandbytes and accelerate: pip install bitsandbytes accelerate"):
        load_model(spec)
    with pytest.raises(UserError, match="device_map=auto needs accelerate"):
        load_model(ModelSpec(str(directory), device_map="auto"))
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda package: package)
    with pytest.raises(UserError, match="model_pair.target.quantization=int8 needs CUDA, and the device is cpu"):
        load_model(spec)


def test_a_device_that_quantisation_needs_is_told_before_its_packages(directory, monkeypatch):
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda package: None)
    pair = ModelPair("p", ModelSpec(str(directory), quantization="int8", device="cpu"))
    with pytest.raises(UserError, match="quantization=int8 needs CUDA, and the device is cpu: set .*quantization=none, and dtype=bfloat16"):
        pair.check()


def test_quantisation_settings():
    assert loading._quantization(ModelSpec("x/y", quantization="int8")).load_in_8bit
    four = loading._quantization(ModelSpec("x/y", quantization="int4", dtype="float16"))
    assert four.load_in_4bit and four.bnb_4bit_quant_type == "nf4" and four.bnb_4bit_use_double_quant
    assert four.bnb_4bit_compute_dtype == torch.float16


# Preflight


@pytest.mark.parametrize("name", ["/no/such/directory", "./nowhere", "~/no/such", "a/b/c", "has space/x"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(UserError, match=r"model_pair.draft.name=.* does not exist: give an existing directory or a Hub id"):
        loading.preflight(ModelSpec(name), "model_pair.draft")


def test_directories_that_are_no_models(tmp_path, directory):
    with pytest.raises(UserError, match="holds no config.json"):
        loading.preflight(ModelSpec(str(tmp_path)))
    with pytest.raises(UserError, match="is a file"):
        loading.preflight(ModelSpec(str(directory / "config.json")))
    with pytest.raises(UserError, match="incomplete weights"):
        loading.preflight(ModelSpec(str(copy_of(directory, tmp_path / "m", without=["model.safetensors"]))))
    with pytest.raises(UserError, match="asset:tiny/nothing is missing from the installation"):
        loading.preflight(ModelSpec("asset:tiny/nothing"))


def test_a_missing_shard_is_noticed(tmp_path):
    make_model().save_pretrained(tmp_path, max_shard_size="2KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    loading.preflight(ModelSpec(str(tmp_path)))
    shards[-1].unlink()
    with pytest.raises(UserError, match="or one of its shards, is absent"):
        loading.preflight(ModelSpec(str(tmp_path)))


def test_a_name_that_was_not_given():
    with pytest.raises(UserError, match="model_pair.target.name is not set: give model_pair.target.name=DIRECTORY_OR_HUB_ID"):
        load_model(ModelSpec("???"))


BOTH_WAYS_OUT = r"someone/nothing is not .*in the local cache.*hf download someone/nothing.*model_pair.target.name=DIRECTORY"


def test_not_cached_and_no_network(no_network):
    for load in (loading.preflight, load_model, load_config):
        with pytest.raises(UserError, match=BOTH_WAYS_OUT):
            load(ModelSpec("someone/nothing"))
    with pytest.raises(UserError, match="hf download someone/nothing.*model_pair.tokenizer=DIRECTORY"):
        load_tokenizer("someone/nothing")


def test_not_cached_and_no_network_by_a_real_probe(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")  # a domain reserved never to exist
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    start = time.monotonic()
    with pytest.raises(UserError, match=BOTH_WAYS_OUT):
        load_model(ModelSpec("someone/nothing"))
    assert time.monotonic() - start < 10  # the promise, not a speed: left alone, transformers takes 23 s


def test_the_probe_does_not_wait_for_a_resolver_that_hangs(monkeypatch):
    monkeypatch.setattr(specexp.datasets.files, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(2) or socket.socket())
    start = time.monotonic()
    assert specexp.datasets.files.offline()
    assert time.monotonic() - start < 1.5


def test_the_probe_asks_the_proxy_where_there_is_one(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(specexp.datasets.files, "proxy_bypass", lambda host: False)
    cases = [({}, ("hub.invalid", 443)), ({"https": "http://proxy:3128"}, ("proxy", 3128)), ({"all": "proxy:81"}, ("proxy", 81))]
    for proxies, address in cases:
        monkeypatch.setattr(specexp.datasets.files, "getproxies", lambda proxies=proxies: proxies)
        assert specexp.datasets.files._probe_address() == address


def test_hf_hub_offline_is_obeyed_without_a_probe(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(specexp.datasets.files, "_answers", lambda host, port: pytest.fail("probed"))
    with pytest.raises(UserError, match=BOTH_WAYS_OUT):
        load_model(ModelSpec("someone/nothing"))


def test_a_cached_model_loads_without_network_or_retries(directory, no_network, monkeypatch):
    put_in_cache(directory, "someone/model")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("went to the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("went to the network"))
    spec = ModelSpec("someone/model", device="cpu")
    assert load_config(spec).vocab_size == 8
    assert load_model(spec).lm_head.weight.shape == (8, 16)
    assert load_tokenizer("someone/model").eos_token == "<end>"


def test_half_a_cached_model_is_not_one(directory, no_network):
    put_in_cache(directory, "someone/nothing", without=["model.safetensors"])
    with pytest.raises(UserError, match=BOTH_WAYS_OUT):
        loading.preflight(ModelSpec("someone/nothing"))


def on_hub(monkeypatch, answer):
    """The Hub, answering every question about a file by `answer(url)`."""
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, **_: answer(url))


def failure(name):
    import httpx2
    from huggingface_hub import errors

    request = httpx2.Request("HEAD", "https://hub.invalid")
    kinds = {"ConnectError": lambda: httpx2.ConnectError("gone")}
    return kinds.get(name, lambda: getattr(errors, name)("no", response=httpx2.Response(404, request=request)))()


@pytest.mark.parametrize(("error", "sentence"), [
    ("GatedRepoError", "someone/model is gated: accept its terms at .*/someone/model .*`hf auth login`.*target.name=DIRECTORY"),
    ("RepositoryNotFoundError", "someone/model is not on the Hub, or is private: check the spelling, log in"),
    ("RevisionNotFoundError", "someone/model has no revision v9: correct or drop model_pair.target.revision"),
    ("RemoteEntryNotFoundError", "holds no config.json on the Hub"),
    ("ConnectError", "the Hub cannot be reached"),
    ("HfHubHTTPError", "the Hub cannot be reached"),
])
def test_what_the_hub_refuses(network, monkeypatch, error, sentence):
    def answer(url):
        raise failure(error)

    on_hub(monkeypatch, answer)
    with pytest.raises(UserError, match=sentence):
        loading.preflight(ModelSpec("someone/model", revision="v9"))


def test_a_hub_model_without_safetensors_is_refused_before_it_is_fetched(network, monkeypatch):
    def answer(url):
        if "safetensors" in url:
            raise failure("RemoteEntryNotFoundError")

    on_hub(monkeypatch, answer)
    with pytest.raises(UserError, match="someone/model has no safetensors weights.*allow_pickle=true"):
        loading.preflight(ModelSpec("someone/model"))
    loading.preflight(ModelSpec("someone/model", allow_pickle=True))


def test_checking_imports_no_torch_and_no_transformers():
    code = """
import sys
from specexp.errors import UserError
from specexp.models import loading
from specexp.models import pair
from specexp.models.loading import ModelSpec, preflight
for name in ("/no/such/directory", "someone/nothing"):
    try:
        preflight(ModelSpec(name))
    except UserError:
        continue
    raise SystemExit("not refused")
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


# Tokenizers and what configurations say


def test_a_tokenizer_loads_once(directory):
    assert load_tokenizer(str(directory)) is load_tokenizer(str(directory))
    assert load_tokenizer(str(directory))("b c")["input_ids"] == [1, 2]


def test_a_directory_without_tokenizer(tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer: .*model_pair.tokenizer="):
        load_tokenizer(str(tmp_path))


def test_equal_tokenizers_pass_whatever_the_models_pad_to():
    check_same_tokenizer(make_tokenizer(), make_tokenizer(), ("target", "draft"))
    check_same_tokenizer(make_tokenizer(), make_tokenizer(pad_token="<pad>"), ("target", "draft"))
    assert make_model(8).config.vocab_size != make_model(16).config.vocab_size  # what the padding of Qwen2.5 looks like: not asked about


@pytest.mark.parametrize("other", [
    make_tokenizer(["a", "c", "b", "<end>"]),
    make_tokenizer([*WORDS, "d"]),
    make_tokenizer(additional_special_tokens=["<extra>"]),
])
def test_different_tokenizers_are_refused_with_the_way_out(other):
    with pytest.raises(UserError, match="draft/x cannot draft for target/x: their tokenizers differ .*choose a draft of .*family.*=NAME"):
        check_same_tokenizer(make_tokenizer(), other, ("target/x", "draft/x"))


def test_a_padding_token_with_another_role_counts():
    other = make_tokenizer()
    other.add_special_tokens({"eos_token": "<stop>", "pad_token": "<stop>"})
    with pytest.raises(UserError, match="<stop>"):
        check_same_tokenizer(make_tokenizer(), other, ("target", "draft"))


def test_stop_ids_are_the_union():
    model = make_model(eos_token_id=5)
    model.generation_config.eos_token_id = [7, 6]
    assert stop_ids(model, make_tokenizer()) == (3, 5, 6, 7)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    assert stop_ids(model, make_tokenizer()) == (3,)


@pytest.mark.parametrize(("config", "length"), [
    (LlamaConfig(max_position_embeddings=2048), 2048),
    (Qwen2Config(max_position_embeddings=32768), 32768),
    (GPT2Config(n_positions=1024), 1024),
    (GPTNeoXConfig(max_position_embeddings=2048), 2048),
    (OPTConfig(max_position_embeddings=2048), 2048),
    (FalconConfig(max_position_embeddings=2048), 2048),
    (FalconConfig(alibi=True), None),
    (BloomConfig(seq_length=2048), None),
    (MptConfig(max_seq_len=2048), None),
    (MptConfig(max_seq_len=2048, attn_config={"alibi": False}), 2048),
    (T5Config(n_positions=512), None),
])
def test_context_length(config, length):
    assert context_length(config) == length


def test_context_length_needs_no_weights(directory, tmp_path):
    assert context_length(load_config(ModelSpec(str(directory)))) == 64


# Configurations


def composed(tmp_path, *overrides):
    """The smallest primary configuration that has what pairs refer to."""
    (tmp_path / "top.yaml").write_text(
        "defaults: [{model_pair: tiny}, _self_]\ndtype: ${model_pair.dtype}\ndevice: auto\n"
        f"hydra: {{searchpath: ['file://{PAIRS.parent}']}}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        return compose("top", overrides=list(overrides))




@pytest.mark.parametrize("name", PAIR_NAMES)
def test_every_pair_composes_to_specs(name, tmp_path):
    named = ["model_pair.target.name=someone/t", "model_pair.draft.name=someone/d"] if name == "custom" else []
    pair = OmegaConf.to_container(composed(tmp_path, f"model_pair={name}", *named).model_pair, resolve=True, throw_on_missing=True)
    assert pair["name"] == (None if name == "custom" else name)  # null: it is called like its target
    assert pair.pop("_convert_") == "all"  # several drafts stay a plain dictionary of specs
    assert pair.pop("_target_") == "specexp.models.pair.ModelPair" and set(pair) == set(inspect.signature(ModelPair).parameters)
    for side in (pair["target"], pair["draft"]):
        assert side.pop("_target_") == "specexp.models.spec.ModelSpec"
        assert set(side) == set(inspect.signature(ModelSpec).parameters)
        assert ModelSpec(**side).dtype == pair["dtype"] and side["device"] == "auto"
    assert f"model_pair={name}" in (PAIRS / f"{name}.yaml").read_text() or name == "tiny"


def test_top_level_settings_reach_both_models_and_each_can_differ(tmp_path):
    overrides = ("dtype=float16", "device=cuda:1", "model_pair.draft.quantization=int8", "model_pair.draft.dtype=float32")
    pair = composed(tmp_path, *overrides).model_pair
    assert (pair.target.dtype, pair.draft.dtype) == ("float16", "float32")
    assert pair.target.device == pair.draft.device == "cuda:1"
    assert (pair.target.quantization, pair.draft.quantization) == ("none", "int8")


def test_a_misspelt_key_is_refused(tmp_path):
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match="model_pair.target.quantisation"):
        composed(tmp_path, "model_pair.target.quantisation=int8")


def test_a_custom_pair_must_be_named(tmp_path):
    pair = composed(tmp_path, "model_pair=custom", "model_pair.draft.name=someone/d")
    assert OmegaConf.missing_keys(pair) == {"model_pair.target.name"}
    with pytest.raises(MissingMandatoryValue):
        OmegaConf.to_container(pair.model_pair, resolve=True, throw_on_missing=True)


def test_target_and_draft_on_two_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.models.preflight.preflight", lambda spec, key: None)
    monkeypatch.setattr("specexp.models.loading.resolved", lambda spec, key: spec)
    monkeypatch.setattr(ModelPair, "_check_families", lambda pair: None)
    ModelPair("pair", ModelSpec("a", device="cuda"), ModelSpec("b", device="cuda")).check()
    with pytest.raises(UserError, match=r"model_pair.target.device=cuda and model_pair.draft.device=cpu differ"):
        ModelPair("pair", ModelSpec("a", device="cuda"), ModelSpec("b", device="cpu")).check()
