"""float32 on CPU: every lossless method gives the oracle's text and transformers' greedy `generate`'s, on several architectures."""

import pytest
import torch
from decodes import PROMPT, decode, text
from tiers import tiered
from tiny_models import CONFIGS, TREES, VOCAB, WINDOWED, build

from specexp.decoding.length_rules import FixedLength
from specexp.decoding.protocols import Cut
from specexp.decoding.sampling import Sampling
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.runners.runner import ModelRunner, StatelessRunner


def generated(model, tokens=48):
    out = model.generate(torch.tensor([PROMPT]), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("kind", tiered(CONFIGS.keys(), ["llama", "gpt2", "gpt_neox", "qwen2", "opt", "bloom"]))
def test_methods_give_the_oracles_and_transformers_text(kind):
    model, other = build(kind, 0), build(kind, 1)
    near = build(kind, 0)
    for parameter in near.parameters():
        parameter.mul_(1.0 + 0.05 * torch.randn_like(parameter))
    expected = text(decode(StatelessRunner(model), NoDraft()))
    assert expected == generated(model)
    assert len(set(expected)) > 3
    assert text(decode(ModelRunner(model), NoDraft())) == expected
    for draft in (model, near, other):
        for gamma in (1, 4):
            assert text(decode(ModelRunner(model), ModelDrafter(ModelRunner(draft), FixedLength(gamma)))) == expected
    assert text(decode(StatelessRunner(model), ModelDrafter(StatelessRunner(near), FixedLength(3)))) == expected
    assert text(decode(ModelRunner(model), PromptLookupDrafter(FixedLength(5)))) == expected
    if kind in TREES + WINDOWED:
        for branching in ([1, 1, 1], [3, 2, 1], [2, 2, 2, 1]):
            assert text(decode(ModelRunner(model), DrawnTreeDrafter(ModelRunner(near), FixedShape(branching)))) == expected


@pytest.mark.parametrize("first_target", [True, False])
def test_drafter_equal_to_target_accepts_everything(first_target):
    model = build("llama")
    steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(model), FixedLength(4)), 50, first_target=first_target)
    assert all(step.accepted == step.drafted for step in steps)
    assert (steps[0].drafted == 0) is first_target
    assert [origin for origin in steps[1].origins] == ["draft"] * 4 + ["bonus"]
    assert steps[-1].finish == "length" and len(text(steps)) == 50


def test_tree_of_the_target_itself_accepts_a_full_path_each_round():
    model = build("llama")
    steps = decode(ModelRunner(model), DrawnTreeDrafter(ModelRunner(model), FixedShape([3, 2, 2])), 41)
    assert [step.accepted for step in steps[1:-1]] == [3] * (len(steps) - 2)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7])
def test_never_more_than_asked_for(tokens):
    model = build("llama")
    for first_target in (True, False):
        steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(model), FixedLength(8)), tokens, first_target=first_target)
        assert len(text(steps)) == tokens and steps[-1].finish == "length"


def test_gamma_zero_is_autoregressive_and_prompt_of_one_token_works():
    model = build("llama")
    steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(model), FixedLength(0)), 20, prompt=[3])
    assert {origin for step in steps for origin in step.origins} == {"target"}
    assert text(steps) == text(decode(StatelessRunner(model), NoDraft(), 20, prompt=[3]))


def test_stop_inside_an_accepted_block_ends_the_text_there():
    model = build("llama")
    full = text(decode(ModelRunner(model), NoDraft()))
    for position in (0, 3, 4, 9):
        def stop(ids, since, position=position):
            return Cut(position + 1, "eos") if len(ids) > position else None

        steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(model), FixedLength(4)), stop=stop)
        assert text(steps) == full[: position + 1] and steps[-1].finish == "eos"


def test_draft_with_another_padded_vocabulary():
    target = build("llama")
    expected = text(decode(ModelRunner(target), NoDraft()))
    for width in (VOCAB - 16, VOCAB + 16):
        draft = build("llama", 1, vocab_size=width)
        assert text(decode(ModelRunner(target), ModelDrafter(ModelRunner(draft, VOCAB), FixedLength(3)))) == expected
        assert text(decode(StatelessRunner(target), ModelDrafter(StatelessRunner(draft, VOCAB), FixedLength(2)), 24)) == expected[:24]
        steps = decode(ModelRunner(target), ModelDrafter(ModelRunner(draft, VOCAB), FixedLength(3)), sampling=Sampling(1.0))
        assert max(text(steps)) < VOCAB


def test_sampling_repeats_with_its_seed_and_differs_with_another():
    model, draft, sampling = build("llama"), build("llama", 1), Sampling(1.0, top_p=0.9)
    run = lambda seed: text(decode(ModelRunner(model), ModelDrafter(ModelRunner(draft), FixedLength(3)), sampling=sampling, seed=seed))
    assert run(1) == run(1) != run(2)
