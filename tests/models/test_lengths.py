"""How long a text may be: by the model's configuration, its rotary positions, and what the user says of it."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers as t
from running import composed, run
from tiny_models import build

from specexp.assets import asset_path
from specexp.errors import UserError
from specexp.experiment.sides import check_ids, crossing
from specexp.live.engine import Engine, Request
from specexp.models.spec import ModelSpec
from specexp.runners.lengths import context_length, extended_length, rotations, switch_length
from specexp.runners.runner import StatelessRunner
from specexp.text import Prompter

LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}


def llama(length, **rope):
    return t.LlamaConfig(max_position_embeddings=length, rope_parameters=rope, hidden_size=32, num_attention_heads=4)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (llama(64, **YARN), 256),  # the card's length is the one before stretching
        (llama(256, **YARN), 256),  # and here the one after
        (llama(64, **{key: value for key, value in YARN.items() if key != "original_max_position_embeddings"}), 256),  # as transformers takes it
        (llama(64, **DYNAMIC), 64),
        (t.Gemma3TextConfig(max_position_embeddings=512), 512),
    ],
)
def test_the_length_that_positions_are_stretched_to(config, length):
    assert context_length(config) == length


def test_rotations_of_one_kind_and_of_several():
    assert [each["rope_type"] for each in rotations(llama(64, **YARN))] == ["yarn"]
    assert len(rotations(t.Gemma3TextConfig())) == 2 and rotations(t.GPT2Config()) == []


def test_the_length_at_which_positions_change():
    assert switch_length(llama(256, **LONG, original_max_position_embeddings=64)) == 64
    assert switch_length(t.Phi3Config(rope_parameters=LONG | {"short_factor": [1.0] * 48, "long_factor": [4.0] * 48}, original_max_position_embeddings=4096, pad_token_id=0)) == 4096
    assert switch_length(llama(256, **YARN)) is None and switch_length(t.GPT2Config()) is None
    assert crossing([64], 60, 4) is None and crossing([64], 60, 5) == 64 and crossing([64], 65, 500) is None and crossing([], 1, 9) is None


def test_a_text_beyond_the_switch_is_another_than_its_beginning_said():
    """Why texts must not cross it: the same token's logits depend on what is read later."""
    model = build("llama", rope_parameters=LONG | {"original_max_position_embeddings": 12}, max_position_embeddings=64)
    with torch.inference_mode():
        ids = torch.arange(2, 22)[None]
        whole, beginning = model(ids).logits[0, 9], model(ids[:, :10]).logits[0, 9]
    assert not torch.allclose(whole, beginning, atol=1e-3)


def pair_with(tmp_path, **changes):
    """The overrides of a pair whose models' configurations are changed."""
    overrides = ["model_pair=custom", "model_pair.tables=tiny"]
    for role in ("target", "draft"):
        place = tmp_path / role
        shutil.copytree(asset_path(f"asset:tiny/{role}"), place)
        content = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(content | changes))
        overrides.append(f"model_pair.{role}.name={place}")
    return overrides


def test_a_run_whose_texts_would_cross_the_switch_is_refused(tmp_path):
    half = json.loads((asset_path("asset:tiny/target") / "config.json").read_text())
    size = (half.get("head_dim") or half["hidden_size"] // half["num_attention_heads"]) // 2
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * size, "long_factor": [2.0] * size, "original_max_position_embeddings": 40}
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "a", "prompt": "def f(x):\n"}))
    overrides = [*pair_with(tmp_path, rope_parameters=rope, rope_scaling=None), "dataset=prompts", f"dataset.path={tmp_path / 'prompts.jsonl'}"]
    with pytest.raises(UserError, match=r"its text would cross 40, where .* rotates all positions otherwise; give max_new_tokens=\d+"):
        run(composed(*overrides, "max_new_tokens=40"), tmp_path / "run")
    run(composed(*overrides, "max_new_tokens=8"), tmp_path / "run")
    engine = Engine(Prompter(SimpleNamespace(chat_template=None)), (), None, {90: "NAME"})
    engine.check(Request([1] * 80, 10))
    with pytest.raises(UserError, match="80 prompt tokens and max_tokens=11 cross 90 tokens, where NAME .* ask for 10 tokens at most"):
        engine.check(Request([1] * 80, 11))


def test_the_users_own_length_counts(tmp_path):
    overrides = pair_with(tmp_path, max_position_embeddings=96)
    with pytest.raises(UserError, match="do not fit the models' context of 96"):
        run(composed(*overrides, "max_new_tokens=90"), tmp_path / "short")
    longer = ["model_pair.target.context_length=512", "model_pair.draft.context_length=512"]
    run(composed(*overrides, *longer, "max_new_tokens=90", "ignore_eos=true", "dataset.limit=1"), tmp_path / "long")
    with pytest.raises(UserError, match="do not fit the models' context of 40"):
        run(composed(*overrides, *longer, "model_pair.draft.context_length=40", "max_new_tokens=39"), tmp_path / "other")


@pytest.mark.parametrize(("config", "reason"), [(t.GPT2Config(n_positions=64), "a table of 64"), (llama(64, **DYNAMIC), "beyond 64 tokens")])
def test_a_length_that_a_model_cannot_have(config, reason, monkeypatch):
    from functools import partial

    from specexp.models.pair import ModelPair

    assert extended_length(config, 64) is None and reason in extended_length(config, 65)
    monkeypatch.setattr("specexp.models.loading.load_config", lambda *_: config)
    with pytest.raises(UserError, match=f"model_pair.target.context_length=65 is too much for NAME: .*{reason}.* give a smaller number"):
        ModelPair("p", ModelSpec("NAME", context_length=65)).longest_text(partial(StatelessRunner))


def test_a_length_that_leaves_no_room():
    with pytest.raises(UserError, match="context_length=0 leaves no room"):
        ModelSpec("NAME", context_length=0)


def test_ids_beyond_the_embedding_are_told_before_anything_is_decoded(tmp_path):
    check_ids([1, 2, 7], {"NAME": 8}, "MicroEval/0")
    with pytest.raises(UserError, match="MicroEval/0 has the id 8, and NAME has embeddings for 8 ids: .* resize the embeddings"):
        check_ids([1, 8], {"NAME": 8}, "MicroEval/0")
    overrides = pair_with(tmp_path)
    for role in ("target", "draft"):
        tokenizer = t.AutoTokenizer.from_pretrained(tmp_path / role)
        tokenizer.add_tokens(["<|user|>"], special_tokens=True)
        tokenizer.save_pretrained(tmp_path / role)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "a", "prompt": "<|user|>def f(x):\n"}))
    with pytest.raises(UserError, match="a has the id 2048, and .*target has embeddings for 2048 ids"):
        run(composed(*overrides, "dataset=prompts", f"dataset.path={tmp_path / 'prompts.jsonl'}"), tmp_path / "run")
