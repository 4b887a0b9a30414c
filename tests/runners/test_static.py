"""Passes of fixed shape say what passes of any shape say, and after warming up no program is made."""

import random
from dataclasses import replace

import pytest
import torch
from decodes import decode, text
from drafts import random_draft, walk
from tiny_models import TREES, VOCAB, build

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import empty_draft
from specexp.decoding.length_rules import ConfidenceThreshold, FixedLength
from specexp.decoding.sampling import GREEDY, Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.errors import UserError
from specexp.experiment.places import _joins_captured
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.static import StaticCache, StaticRunner


@pytest.mark.parametrize("kind", TREES)
@torch.inference_mode()
def test_static_equals_stateless_forward(kind):
    rng = random.Random(kind)
    model = build(kind, dtype=torch.float64)
    runner, oracle = StaticRunner(model, block=32), StatelessRunner(model)
    for _ in range(3):
        context = Context([rng.randrange(VOCAB) for _ in range(rng.randrange(1, 20))])
        runner.start(context.ids, 120)
        for _ in range(10):
            draft = random_draft(rng, rng.randrange(0, 12), tree=rng.random() < 0.6)
            rows = len(draft) + 1
            got, expected = runner.logits(context, draft, rows), oracle.logits(context, draft, rows)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
            context.append([*walk(rng, draft), rng.randrange(VOCAB)])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)], ids=["greedy", "multinomial"])
@torch.inference_mode()
def test_drafts_are_those_of_a_stateless_rollout(sampling):
    model = build("llama", dtype=torch.float64)
    runner, oracle = StaticRunner(model, block=16), StatelessRunner(model)
    context = Context(list(range(12)))
    runner.start(context.ids, 100)
    for turn in range(12):
        length = (4, 4, 2, 6, 1, 5)[turn % 6]
        fast, slow = (each.rollout(context, length, Draws(sampling, (turn,))) for each in (runner, oracle))
        assert fast.ids == slow.ids
        context.append([*fast.ids[: turn % 5], turn])


def drafter(draft, policy):
    return ModelDrafter(StaticRunner(draft, block=32), policy)


@pytest.mark.parametrize("policy", [lambda: FixedLength(5), lambda: ConfidenceThreshold(0.3, 8)], ids=["fixed", "confidence"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_text_is_that_of_the_full_cache(kind, policy):
    target, draft = build(kind), build(kind, seed=0)
    draft.get_input_embeddings().weight.add_(0.02 * torch.randn(draft.get_input_embeddings().weight.shape))
    expected = text(decode(ModelRunner(target), NoDraft()))
    assert text(decode(StaticRunner(target, block=32), NoDraft())) == expected
    steps = decode(StaticRunner(target, block=32), drafter(draft, policy()))
    assert text(steps) == expected and 0 < sum(step.accepted for step in steps) < sum(step.drafted for step in steps)


def test_no_program_is_made_twice_nor_after_warming_up():
    model = build("llama")
    decoder = Decoder(StaticRunner(model, block=32), drafter(model, FixedLength(4)), RejectionVerifier())
    runners = decoder.target, decoder.drafter.runner
    prompts = [list(range(2, 2 + length)) for length in (30, 12, 25)]
    made = []
    for prompt in [*prompts, *prompts]:
        list(decoder.generate(prompt, 60, lambda ids, since: None, Draws()))
        made.append([runner.capture.made for runner in runners])
    assert made[0] == made[-1] and min(made[0]) > 0


def test_a_longer_text_gets_larger_buffers_and_new_programs():
    runner, oracle = StaticRunner(build("llama"), block=32), ModelRunner(build("llama"))
    for length in (10, 100, 10):
        context = Context(list(range(length)) if length < VOCAB else [i % VOCAB for i in range(length)])
        for each in (runner, oracle):
            each.start(context.ids, 40)
        assert runner.rollout(context, 6, Draws()).ids == oracle.rollout(context, 6, Draws()).ids
        context.append([7])
        assert runner.rollout(context, 6, Draws()).ids == oracle.rollout(context, 6, Draws()).ids


def test_memory_is_what_is_reserved():
    runner = StaticRunner(build("llama"), block=32)
    runner.start([1, 2, 3], 20)
    runner.logits(Context([1, 2, 3]), empty_draft(), 1)
    assert runner.kv_bytes == runner.cache.keys[0].shape[2] * runner.cache.bytes_per_slot


def test_a_static_cache_that_grows_says_so_and_keeps_what_it_holds():
    cache, states = StaticCache(block=4, spare=0), torch.rand(1, 2, 4, 8)
    cache.reserve(4)
    cache.update(states, states, 0)
    cache.length, before = 4, cache.addresses
    keys, values = cache.update(states[:, :, :1], states[:, :, :1], 0)
    assert cache.addresses > before and cache.capacity == cache.keys[0].shape[2] == 8
    assert torch.equal(keys[:, :, :4], states) and torch.equal(values[:, :, 4:], states[:, :, :1])


@pytest.mark.parametrize("kind", ["gpt_neo", "bloom"])
def test_refuses_what_it_would_make_wrong(kind):
    model = build(kind)
    with pytest.raises(UserError, match="static cache"):
        StaticRunner(model)
    with pytest.raises(UserError, match="choose cache=full"):
        StaticRunner.longest_text(model.config, "m")


def test_refuses_settings_and_methods_that_do_not_fit():
    model = build("llama")
    with pytest.raises(UserError, match="cache.capture=often is unknown; give auto, graphs or none"):
        StaticRunner(model, capture="often")
    with pytest.raises(UserError, match="cache.capture=graphs needs a CUDA device and the models are on cpu"):
        StaticRunner(model, capture="graphs")
    with pytest.raises(UserError, match="cache.block=0 does not fit"):
        StaticRunner.longest_text(model.config, "m", block=0)
    with pytest.raises(UserError, match="cache=static keeps no states"):
        StaticRunner(model).keep_states()


@pytest.mark.parametrize(("device", "kind", "joins"), [("cpu", "llama", False), ("cuda", "llama", True), ("cuda", "gpt_neo", False)])
def test_captured_decoding_joins_the_baselines_on_cuda_where_it_is_right(device, kind, joins):
    runner = ModelRunner(build(kind))
    runner.facts = replace(runner.facts, device=torch.device(device))
    assert _joins_captured({"method": Decoder(runner, NoDraft(), RejectionVerifier())}) is joins


def test_captured_decoding_is_no_further_baseline_of_itself():
    runner = StaticRunner(build("llama"))
    runner.facts = replace(runner.facts, device=torch.device("cuda"))
    assert not _joins_captured({"method": Decoder(runner, NoDraft(), RejectionVerifier())})


@pytest.mark.parametrize(("gamma", "tokens"), [(80, 130), (30, 60)])
@torch.inference_mode()
def test_drafts_longer_than_what_is_spare_make_the_cache_grow(gamma, tokens):
    model = build("llama", dtype=torch.float64)
    runners = StaticRunner(model, block=64), StaticRunner(model, block=64)
    decoder = Decoder(runners[0], ModelDrafter(runners[1], FixedLength(gamma)), RejectionVerifier())
    assert text(decode(decoder.target, decoder.drafter, tokens=tokens)) == text(decode(StatelessRunner(model), NoDraft(), tokens=tokens))


@torch.inference_mode()
def test_wide_trees_near_the_end_of_a_text_make_the_cache_grow():
    rng, model = random.Random(5), build("llama", dtype=torch.float64)
    runner, oracle, context = StaticRunner(model, block=32), StatelessRunner(model), Context(list(range(30)))
    runner.start(context.ids, 2)
    for nodes in (60, 63, 130):
        draft = random_draft(rng, nodes, tree=True)
        got, expected = (each.logits(context, draft, nodes + 1) for each in (runner, oracle))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_short_drafts_run_no_long_program():
    runner, context = StaticRunner(build("llama"), block=64), Context(list(range(9)))
    runner.start(context.ids, 100)
    runner.logits(context, empty_draft(), 1)
    for length, passes in ((12, 12), (8, 12), (3, 12), (0, 0), (3, 3), (12, 12)):
        context.append([length])
        if not length:
            runner.logits(context, empty_draft(), 1)  # now there are single steps
            continue
        before = runner.forwards
        assert len(runner.rollout(context, length, Draws())) == length
        assert runner.forwards - before == passes


def test_what_cannot_be_captured_does_not_join_as_a_baseline():
    model = build("llama")
    assert StaticRunner.fits(model)
    model.config.quantization_config = {"load_in_8bit": True}
    assert not StaticRunner.fits(model)
    with pytest.raises(UserError, match="cannot run with a static cache"):
        StaticRunner(model)
    hooked = build("llama")
    hooked.model.layers[0]._hf_hook = object()
    assert not StaticRunner.fits(hooked)


def tried(model, **settings):
    """A runner whose programs run once when they are made, as capturing them does."""
    runner = StaticRunner(model, **settings)
    runner.capture = lambda program: (program(), program)[1]
    return runner


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)], ids=["greedy", "multinomial"])
@pytest.mark.parametrize("kind", TREES)
@torch.inference_mode()
def test_a_text_may_end_where_the_models_positions_end(kind, sampling):
    """Rows that only fill a shape, and the trial run of a program, stand behind the text, where some models have no position."""
    target, draft = (build(kind, seed, dtype=torch.float64, max_position_embeddings=96) for seed in (0, 1))
    prompt = [(7 * i) % VOCAB for i in range(84)]

    def written(runner, length):
        drafter = ModelDrafter(runner(draft), FixedLength(length)) if length else NoDraft()
        return text(decode(runner(target), drafter, tokens=12, prompt=prompt, sampling=sampling))

    for length in (0, 9):
        assert written(lambda model: tried(model, block=32), length) == written(ModelRunner, length)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "opt", "llama"])
@torch.inference_mode()
def test_token_trees_may_end_where_the_models_positions_end(kind):
    rng, model = random.Random(kind), build(kind, dtype=torch.float64, max_position_embeddings=96)
    runner, oracle, context = tried(model, block=32), StatelessRunner(model), Context([i % VOCAB for i in range(90)])
    runner.start(context.ids, 6)
    for nodes in (5, 3, 5):
        draft = random_draft(rng, nodes, tree=True)
        got, expected = (each.logits(context, draft, nodes + 1) for each in (runner, oracle))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
