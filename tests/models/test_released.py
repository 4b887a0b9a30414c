"""Real released models, as their users have them: read from a .gguf file, equal to transformers' own text with every method that fits."""

import pytest
import torch
from decodes import never
from released import first_layers, packed, unpacked

from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import GREEDY, Draws
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.copying import MaxGramDrafter, PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.drafters.nasd import BasicStorage, NasdDrafter
from specexp.drafters.suffixes import LatestMatch
from specexp.errors import UserError
from specexp.experiment.guard import guard
from specexp.models.loading import load_model
from specexp.models.pair import ModelPair
from specexp.models.spec import ModelSpec
from specexp.runners.compiled import CompiledRunner
from specexp.runners.runner import ModelRunner
from specexp.runners.static import StaticRunner
from specexp.text import Prompter
from specexp.text.stopping import Detokenizer, Stopping
from specexp.training.texts import generated

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("released")]
TOKENS = 40
ALONE = {  # drafters that need no model
    "alone": NoDraft,
    "prompt_lookup": lambda: PromptLookupDrafter(FixedLength(8)),
    "max_gram": lambda: MaxGramDrafter(FixedLength(8), LatestMatch(2, 32), NoDraft()),
    "nasd": lambda: NasdDrafter(BasicStorage(4), FixedLength(4)),
}
QUESTION = [{"role": "user", "content": "Write a Python function that adds two numbers, and say what it does in Greek: α, β, γ."}]
LAYERS = {"smollm2": 10, "gemma3": 6}


def loaded(name):
    place = str(unpacked(name))
    spec = ModelSpec(place, dtype="float32", device="cpu")
    return load_model(spec), ModelPair(name, spec).load_tokenizer()


def prompts(name, tokenizer):
    """A text of code, one of several scripts, and where there is a template a question put into it; for Gemma one that crosses its window."""
    found = [tokenizer(text)["input_ids"] for text in ("def fibonacci(n):\n", "Γεια σου, κόσμε! 你好，世界 🙂 — Привет, мир: ")]
    if tokenizer.chat_template:
        found.append(tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True)["input_ids"])
    if name == "gemma3":
        found.append(tokenizer("The quick brown fox jumps over the lazy dog, and then it counts: 1, 2, 3. " * 24)["input_ids"][:500])
    return found


def written(runner, drafter, ids):
    decoder = Decoder(runner, drafter, RejectionVerifier())
    return [token for each in decoder.generate(ids, TOKENS, never, Draws(GREEDY, (0,))) for token in each.tokens]


@torch.inference_mode()
def by_generate(model, ids):
    out = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.0, eos_token_id=None, pad_token_id=0)
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_every_method_writes_the_text_of_generate(name):
    model, tokenizer = loaded(name)
    draft = load_model(ModelSpec(str(first_layers(name, LAYERS[name])), dtype="float32", device="cpu"), "model_pair.draft")
    for ids in prompts(name, tokenizer):
        expected = by_generate(model, ids)
        assert len(set(expected)) > 3
        for drafter in ALONE.values():
            assert written(ModelRunner(model), drafter(), ids) == expected
        assert written(ModelRunner(model), ModelDrafter(ModelRunner(draft), FixedLength(4)), ids) == expected
        assert written(ModelRunner(model), DrawnTreeDrafter(ModelRunner(draft), FixedShape([2, 2, 1])), ids) == expected
    guard([("target", ModelRunner(model)), ("draft", ModelRunner(draft))], ids)


def test_other_caches_write_the_same_text_where_they_fit():
    model, tokenizer = loaded("smollm2")
    ids = prompts("smollm2", tokenizer)[0]
    expected = by_generate(model, ids)
    for kind in (CompiledRunner, StaticRunner):
        assert written(kind(model), PromptLookupDrafter(FixedLength(4)), ids) == expected
    model, tokenizer = loaded("gemma3")
    ids = prompts("gemma3", tokenizer)[0]
    assert StaticRunner.longest_text(model.config, "m") == model.config.sliding_window
    assert written(StaticRunner(model), PromptLookupDrafter(FixedLength(4)), ids) == by_generate(model, ids)
    with pytest.raises(UserError, match="cache=compiled knows llama"):
        CompiledRunner.longest_text(model.config, "m")


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_streamed_text_is_the_whole_text(name):
    model, tokenizer = loaded(name)
    ids = prompts(name, tokenizer)[1]
    tokens = [*tokenizer(" 🙂🙃😀 你好 Привет é", add_special_tokens=False)["input_ids"], *by_generate(model, ids)]
    stopping = Stopping(tokenizer, (), ())
    stream = Detokenizer(stopping, ids)
    pieces = [stream.feed(token) for token in tokens]
    assert "".join([*pieces, stream.finish()]) == stopping.text(ids, tokens)


def test_a_packed_file_is_the_model_that_was_saved_from_it():
    file = packed("smollm2")
    spec = ModelSpec(str(file.parent), gguf_file=file.name, dtype="float32", device="cpu")
    model, tokenizer = load_model(spec), ModelPair("packed", spec).load_tokenizer()
    saved, other = loaded("smollm2")
    ids = tokenizer("def fibonacci(n):\n")["input_ids"]
    assert ids == other("def fibonacci(n):\n")["input_ids"] and tokenizer.get_vocab() == other.get_vocab()
    assert torch.equal(model.model.layers[3].mlp.up_proj.weight, saved.model.layers[3].mlp.up_proj.weight)


@pytest.mark.parametrize("name", LAYERS)
def test_a_prompt_and_a_text_for_training_begin_alike(name):
    """Gemma's tokenizer begins every text with a BOS token, without which its states are others; SmolLM2's begins with none."""
    _, tokenizer = loaded(name)
    prompter = Prompter(tokenizer)
    assert prompter.leading == {"smollm2": [], "gemma3": [tokenizer.bos_token_id]}[name]
    assert prompter.ids("def f(n):") == prompter.ids(tokenizer.bos_token + "def f(n):")[-len(prompter.ids("def f(n):")) :]
    for text in generated(tokenizer, 3, 0):
        assert list(text.ids[: text.start]) == prompter.ids(tokenizer.decode(text.ids[: text.start], skip_special_tokens=True))
    if tokenizer.chat_template:
        asked = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert prompter.chat_ids(QUESTION) == prompter.ids(prompter.rendered(QUESTION)) == asked and prompter.is_rendered(prompter.rendered(QUESTION))
