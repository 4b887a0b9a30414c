"""States are what the output projection reads in a plain forward pass over the whole text, whatever was asked before: prefixes, rollbacks,
trees whose paths moved, forks, texts that went on without the runner. Asking for them changes no logits and costs no pass that is not due."""

import random

import pytest
import torch
from drafts import random_draft, walk
from sinks import SETTINGS, exact_llama, oracle, random_ids
from tiers import tiered
from tiny_models import CONFIGS, ENCODER_DECODER, TREES, VOCAB, build, build_encoder_decoder

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.sampling import Draws
from specexp.runners.compiled import CompiledRunner
from specexp.runners.llama import LAYOUT
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner
from specexp.runners.states import OutputStates


def read_in_a_plain_pass(model, ids, **inputs):
    """[len(ids) - 1, D]: what the output projection reads behind all tokens but the last, in one pass of transformers' own over the text."""
    caught = []
    projection = model.get_output_embeddings()
    hook = projection.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    model(**{"decoder_input_ids" if inputs else "input_ids": torch.tensor([ids])}, **inputs, use_cache=False)
    hook.remove()
    [states] = caught
    return states[0, :-1]


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)  # GPT-J attends in float32


def keeping(runner):
    runner.keep_states()
    return runner


def asked_about(rng, context):
    """The text itself, a fork that goes on by other tokens, or what it was a while ago."""
    if (chosen := rng.random()) < 0.25:
        fork = context.fork()
        fork.append(random_ids(rng, rng.randrange(1, 9)))
        return fork
    return Context(context.ids[: rng.randrange(1, len(context) + 1)]) if chosen < 0.4 else context


def wander(runners, rng, context, trees, expected, steps=20):
    """Ask the runners for states, drafts' logits and rollouts of a text that goes on by accepted paths and without any runner. -> how many
    paths had to move."""
    moved = 0
    for _ in range(steps):
        asked = asked_about(rng, context)
        for runner in runners:
            if rng.random() < 0.6:  # before any pass over this text, too
                close(runner.states(asked), expected(asked.ids))
        if rng.random() < 0.2:
            draft, *_ = [runner.rollout(asked, 3, Draws()) for runner in runners]
        else:
            draft = random_draft(rng, rng.randrange(0, 7), tree=trees and rng.random() < 0.7)
            rows = rng.randrange(1, len(draft) + 2)
            first, *others = (runner.logits(asked, draft, rows) for runner in runners)
            for other in others:
                close(other, first)
        if rng.random() < 0.3:
            for runner in runners:
                close(runner.states(asked), expected(asked.ids))
        if asked is not context or rng.random() < 0.2:
            continue
        path = walk(rng, draft)
        moved += path != list(draft.ids[: len(path)])
        context.append([*path, *random_ids(rng, rng.choice([1, 1, 1, 6]))])
        for runner in runners:
            close(runner.states(context), expected(context.ids))
    return moved


@pytest.mark.parametrize("kind", CONFIGS)
def test_states_are_those_of_a_plain_forward_pass(kind):
    rng, model, moved = random.Random(kind), build(kind, dtype=torch.float64), 0
    runners = [keeping(ModelRunner(model)), keeping(StatelessRunner(model))]
    for length in (1, 9):
        context = Context(random_ids(rng, length))
        for runner in runners:
            runner.start(context.ids)
        moved += wander(runners, rng, context, kind in TREES, lambda ids: read_in_a_plain_pass(model, ids))
        assert not model.get_output_embeddings()._forward_pre_hooks
    assert bool(moved) is (kind in TREES)
    ids = context.ids
    close(read_in_a_plain_pass(model, ids), model.base_model(torch.tensor([ids])).last_hidden_state[0, :-1])


@pytest.mark.parametrize("kind", ENCODER_DECODER)
def test_states_of_encoder_decoders_are_what_their_projection_reads(kind):
    rng, model = random.Random(kind), build_encoder_decoder(kind, dtype=torch.float64)
    runners = [keeping(ModelRunner(model)), keeping(StatelessRunner(model))]
    for _ in range(2):
        source = random_ids(rng, 7)
        context, *_ = [Context(runner.start(source)) for runner in runners]
        wander(runners, rng, context, False, lambda ids, source=source: read_in_a_plain_pass(model, ids, input_ids=torch.tensor([source])), 8)
        logits = runners[0].logits(Context(context.ids[:1]), Draft.of_ids(context.ids[1:-1]), len(context) - 1)
        torch.testing.assert_close(model.lm_head(runners[0].states(context)), logits)


@pytest.mark.parametrize("kind", ["llama", "gptj", "bloom"])
def test_a_streaming_cache_that_evicts_nothing_keeps_the_same_states(kind):
    rng, model = random.Random(kind), build(kind, dtype=torch.float64)
    runner, context = keeping(SinkRunner(model, None, 4, 400, 32)), Context(random_ids(rng, 9))
    runner.start(context.ids)
    wander([runner, keeping(StatelessRunner(model))], rng, context, kind in TREES, lambda ids: read_in_a_plain_pass(model, ids))
    assert runner.usage().evicted == 0




@pytest.mark.parametrize("settings", tiered(SETTINGS, SETTINGS[:1]))
def test_behind_evictions_they_are_those_of_the_model_that_the_streaming_cache_makes(settings):
    """All positions of the text, also those that are no more in the cache."""
    model, rng, (max_length, sinks, block) = exact_llama(), random.Random(2), settings
    runner = keeping(SinkRunner(model, None, sinks, max_length, block))
    context = Context(random_ids(rng, 5))
    runner.start(context.ids)
    for _ in range(18):
        asked = asked_about(rng, context)
        if rng.random() < 0.5:
            draft = Draft(torch.tensor([3, 4]), (ROOT, ROOT))
            runner.logits(asked, draft if runner.room(asked) else empty_draft(), 1)
            context.append([4] if asked is context and runner.room(asked) else [])
        torch.testing.assert_close(model.lm_head(runner.states(asked)), oracle(model, asked.ids, *settings)[:-1], rtol=1e-9, atol=1e-9)
        context.append(random_ids(rng, rng.choice([1, 5, 40])))
    assert runner.usage().evicted


@pytest.mark.parametrize("kind", sorted(LAYOUT))
def test_the_compiled_pass_keeps_them_too(kind, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    rng, model = random.Random(kind), build(kind)
    runner, context = keeping(CompiledRunner(model)), Context(random_ids(rng, 9))
    runner.start(context.ids)
    with torch.inference_mode():
        for _ in range(8):
            torch.testing.assert_close(runner.states(context), read_in_a_plain_pass(model, context.ids), rtol=1e-3, atol=1e-3)
            draft = random_draft(rng, rng.randrange(0, 7), tree=rng.random() < 0.5)
            runner.logits(context, draft, len(draft) + 1)
            context.append([*walk(rng, draft), rng.randrange(VOCAB)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_keeping_states_changes_no_logits(kind):
    rng, model = random.Random(kind), build(kind, dtype=torch.float64)
    plain, runner = ModelRunner(model), keeping(ModelRunner(model))
    context = Context(random_ids(rng, 9))
    for each in (plain, runner):
        each.start(context.ids)
    for step in range(8):
        draft = random_draft(rng, rng.randrange(0, 7), tree=kind in TREES and rng.random() < 0.7)
        rows = len(draft) + 1 if step else rng.randrange(1, len(draft) + 2)
        got, expected = (each.logits(context, draft, rows) for each in (runner, plain))
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)  # sums in another order
        context.append([*walk(rng, draft), rng.randrange(VOCAB)])
    close(runner.states(context), read_in_a_plain_pass(model, context.ids))


def test_states_of_a_verified_text_cost_no_pass_and_of_any_other_one():
    runner, context = keeping(ModelRunner(build("llama"))), Context(list(range(9)))
    runner.start(context.ids)

    def passes():
        before = runner.usage().forwards
        states = runner.states(context)
        assert states.shape == (len(context) - 1, 32)
        return runner.usage().forwards - before

    assert (passes(), passes()) == (1, 0)  # nothing was read yet
    runner.logits(context, Draft(torch.tensor([1, 2, 3]), (ROOT, ROOT, 1)), 4)
    context.append([2, 3, 7])  # the second branch
    assert passes() == 0
    context.append([5, 6, 7, 8])  # without this runner
    assert (passes(), passes()) == (1, 0)
    runner.start([1], 9)
    context = Context([1])
    assert passes() == 0  # of no token at all


@pytest.mark.parametrize("capacity", [0, 700])
def test_long_texts_outgrow_what_is_kept(capacity):
    rng, model = random.Random(1), build("llama", dtype=torch.float64)
    runner, context = keeping(ModelRunner(model)), Context(random_ids(rng, 200))
    runner.start(context.ids, capacity)
    for _ in range(12):
        draft = random_draft(rng, 9, tree=True)
        runner.logits(context, draft, 10)
        context.append([*walk(rng, draft), *random_ids(rng, 40)])
        close(runner.states(context), read_in_a_plain_pass(model, context.ids))
    assert len(context) > 600


def test_rows_that_were_handed_out_stay_while_the_text_goes_on():
    model, context = build("llama"), Context(list(range(9)))
    runner = keeping(ModelRunner(model))
    runner.start(context.ids)
    held = runner.states(context)
    expected = held.clone()
    for token in range(40):
        context.append([token])
        runner.logits(context, Draft.of_ids([1, 2, 3]), 4)
        runner.states(context)
    assert torch.equal(held, expected)


def test_another_prompt_has_states_of_its_own():
    model = build("llama", dtype=torch.float64)
    for runner in (keeping(ModelRunner(model)), keeping(StatelessRunner(model))):
        for ids in ([5, 6, 7, 8], [5, 9, 7, 8, 3], [4]):
            context = Context(runner.start(ids))
            close(runner.states(context), read_in_a_plain_pass(model, ids))


def test_a_batch_of_one_pass_is_caught_whole():
    model, ids = build("llama", dtype=torch.float64), torch.arange(12).view(2, 6)
    states = OutputStates(model)
    for _ in range(2):
        with states:
            model(ids)
        assert torch.equal(states.batch(), model.base_model(ids).last_hidden_state)
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("kind", [ModelRunner, StatelessRunner, SinkRunner])
def test_a_model_without_an_output_projection_is_refused(kind, monkeypatch):
    model = build("llama")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with pytest.raises(ValueError, match="has no output projection"):
        kind(model).keep_states()
