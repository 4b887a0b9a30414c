"""The streaming cache: the model that it makes of a model is computed a second way, and every way of cutting a text into passes agrees."""

import math
import random

import pytest
import torch
import transformers
from cascades import csd
from decodes import GREEDY, decode, text
from drafts import random_draft, walk
from sinks import ROPES, SETTINGS, exact_llama, oracle, random_ids
from tiers import tiered
from tiny_models import VOCAB, build, build_encoder_decoder

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import LenientArgmax, RejectionVerifier
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.grown_trees import BestFirst, GrownTreeDrafter
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.errors import UserError
from specexp.experiment.generation import continuation_nll, generate
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import EvictionSchedule, KeyRotation, SinkRunner

MPT = transformers.MptConfig(vocab_size=VOCAB, d_model=32, n_layers=1, n_heads=4, max_seq_len=512, expansion_ratio=2)
TURNED = ("llama", "gpt_neox", "qwen2", "qwen3", "mistral", "phi", "gptj")
COUNTED = ("bloom", "mpt", "relu_tied", "mt5")


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def token_by_token(runner, ids):
    context = Context(ids[:1])
    runner.start(ids[:1], len(ids))
    rows = [runner.logits(context, empty_draft(), 1)]
    for token in ids[1:]:
        context.append([token])
        rows.append(runner.logits(context, empty_draft(), 1))
    return torch.cat(rows)


@pytest.mark.parametrize("settings", SETTINGS)
def test_token_by_token_equals_the_definition(settings):
    model, ids, (max_length, sinks, block) = exact_llama(), random_ids(random.Random(1), 420), settings
    runner = SinkRunner(model, None, sinks, max_length, block)
    close(token_by_token(runner, ids), oracle(model, ids, *settings))
    assert runner.cache.length <= max_length and runner.tokens_evicted >= 7 * block
    assert all(buffer.shape[2] == max_length for buffer in runner.cache.keys + runner.cache.values)
    assert runner.kv_bytes == max_length * 2 * 2 * (2 * 8) * 8  # layers, keys and values, KV heads x width, float64


@pytest.mark.parametrize("rope", ROPES)
def test_the_models_own_frequencies_turn_the_keys(rope):
    model, ids = exact_llama(rope), random_ids(random.Random(2), 260)
    close(token_by_token(SinkRunner(model, None, 4, 68, 32), ids), oracle(model, ids, 68, 4, 32))


def one_layer(kind):
    if kind == "mpt":
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(MPT).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3) if parameter.ndim > 1 else None
        return model.double()
    if kind in COUNTED[2:]:
        return build_encoder_decoder(kind, dtype=torch.float64, num_decoder_layers=1)
    changes = {"layer_types": ["full_attention"]} if kind in ("qwen2", "qwen3") else {}
    return build(kind, dtype=torch.float64, num_hidden_layers=1, **changes)


@pytest.mark.parametrize("kind", TURNED + COUNTED)
def test_with_one_layer_it_is_the_model_on_the_kept_tokens(kind):
    """Keys and values of one layer depend on their own token alone, so the kept ones are those of the text without the others."""
    model, rng = one_layer(kind), random.Random(kind)
    runner, oracle_runner, schedule = SinkRunner(model, None, 4, 68, 32), StatelessRunner(model), EvictionSchedule(4, 68, 32)
    prompt = random_ids(rng, 9)
    oracle_runner.start(prompt)
    context = Context(runner.start(prompt, 300))
    for length in range(200):
        context.append([rng.randrange(VOCAB)])
        got = runner.logits(context, empty_draft(), 1)
        if length % 7 == 0 or runner.schedule.room(len(context)) in (0, 31):
            gone = schedule.evicted(len(context) - 1)
            kept = context.ids[:4] + context.ids[4 + gone :]
            torch.testing.assert_close(got, oracle_runner.logits(Context(kept), empty_draft(), 1), rtol=1e-4, atol=2e-5)
    assert runner.tokens_evicted >= 128


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", tiered(range(3), [0]))
def test_any_way_of_cutting_a_text_into_passes_gives_the_same(settings, seed):
    """Drafts, trees, rejections, lags, forks, texts taken back beyond an eviction: all equal the definition."""
    model, rng, (max_length, sinks, block) = exact_llama(), random.Random(seed), settings
    runner = SinkRunner(model, None, sinks, max_length, block)
    context = Context(random_ids(rng, rng.choice([1, 30, max_length, max_length + 1, 3 * max_length])))
    runner.start(context.ids, 64)
    for _ in range(25):
        asked = context
        if (chosen := rng.random()) < 0.15:
            asked = context.fork()
            asked.append(random_ids(rng, rng.randrange(1, 50)))
        elif chosen < 0.25:
            asked = Context(context.ids[: rng.randrange(1, len(context) + 1)])
        draft = within_room(rng, runner, asked)
        expected = oracle(model, asked.ids, *settings)[-1:]
        paths = [asked.ids + [draft.ids[step] for step in draft.path(node)] for node in range(len(draft))]
        expected = torch.cat([expected, *(oracle(model, path, *settings)[-1:] for path in paths)])
        rows = rng.randrange(1, len(draft) + 2)
        close(runner.logits(asked, draft, rows), expected[-rows:])
        if rng.random() < 0.8:
            context.append([*walk(rng, draft), *random_ids(rng, rng.choice([1, 1, 1, 5, 90]))])


def within_room(rng, runner, context):
    """A random draft that ends before the next eviction."""
    draft = random_draft(rng, rng.randrange(0, 7), tree=rng.random() < 0.6)
    while len(draft) and max(draft.depths) > runner.room(context):
        draft = random_draft(rng, len(draft) - 1, tree=True)
    return draft


def test_a_growing_tree_and_a_rollout_work_behind_evictions():
    model, rng = exact_llama(), random.Random(5)
    runner = SinkRunner(model, None, 4, 68, 32)
    context = Context(random_ids(rng, 150))
    runner.start(context.ids)
    for _ in range(12):
        rolled = runner.rollout(context, min(4, runner.room(context)), Draws())
        expected = list(context.ids)
        for token in rolled.ids:
            assert token == int(oracle(model, expected, 68, 4, 32)[-1].argmax())
            expected.append(token)
        if runner.room(context) >= 2:
            draft = Draft(torch.tensor([3, 4]), (-1, -1))
            runner.logits(context, draft, 2)
            draft = draft.grow(torch.tensor([5, 6]), (0, 1))
            rows = [oracle(model, context.ids + path, 68, 4, 32)[-1] for path in ([3, 5], [4, 6])]
            close(runner.logits(context, draft, 2), torch.stack(rows))
        context.append(random_ids(rng, rng.choice([1, 5, 8])))


@pytest.mark.parametrize("settings", SETTINGS)
def test_room_ends_where_the_next_eviction_comes(settings):
    max_length, sinks, block = settings
    schedule = EvictionSchedule(sinks, max_length, block)
    for length in range(1, 5 * max_length):
        room, gone = schedule.room(length), schedule.evicted(length - 1)
        assert gone == (0 if length <= max_length else block * math.ceil((length - max_length) / block))
        assert room >= 0 and schedule.evicted(length - 1 + room) == gone < schedule.evicted(length + room)
        assert length - 1 + room - gone == max_length - 1 and length - 1 - gone >= (max_length - block if gone else 0)


def test_a_draft_across_an_eviction_is_refused():
    runner = SinkRunner(build("llama"), None, 4, 68, 32)
    context = Context(list(range(66)))
    runner.start(context.ids)
    assert runner.room(context) == 2
    runner.logits(context, Draft.of_ids([1, 2]), 3)
    with pytest.raises(ValueError, match="3 deep reaches across the next eviction, which is 2 tokens away"):
        runner.logits(context, Draft.of_ids([1, 2, 3]), 4)
    with pytest.raises(ValueError, match="next eviction"):
        runner.rollout(context, 4, Draws())


def drafters(model, near, settings):
    sink = lambda other: SinkRunner(other, None, *settings)
    small = build("llama", 2)
    return {
        "chain": ModelDrafter(sink(near), FixedLength(4)),
        "long chain": ModelDrafter(sink(near), FixedLength(40)),
        "itself": ModelDrafter(sink(model), FixedLength(5)),
        "full draft": ModelDrafter(ModelRunner(near), FixedLength(3)),
        "tree": DrawnTreeDrafter(sink(near), FixedShape([3, 2, 1, 1])),
        "grown tree": GrownTreeDrafter(sink(near), BestFirst(3, 6), 12),
        "prompt_lookup": PromptLookupDrafter(FixedLength(6)),
        "csd": csd({"near": sink(near), "small": sink(small)}, [[2, 3, 4], [0, 3, 2], [0, 0, 4]], LenientArgmax(2.0)),
    }


@pytest.mark.parametrize(("settings", "prompt"), [(SETTINGS[0], 200), (SETTINGS[1], 7), pytest.param(SETTINGS[2], 7, marks=pytest.mark.slow), pytest.param(SETTINGS[3], 200, marks=pytest.mark.slow)])
def test_every_kind_of_method_gives_the_text_of_ar_under_the_same_cache(settings, prompt):
    model, near = build("llama", 0), build("llama", 0)
    for parameter in near.parameters():
        parameter.mul_(1.0 + 0.05 * torch.randn_like(parameter))
    max_length, sinks, block = settings
    given, order = random_ids(random.Random(3), prompt), (sinks, max_length, block)
    run = lambda drafter: text(decode(SinkRunner(model, None, *order), drafter, 130, given))
    expected = run(NoDraft())
    assert expected != text(decode(ModelRunner(model), NoDraft(), 130, given)) and len(set(expected)) > 3
    for name, drafter in drafters(model, near, order).items():
        assert run(drafter) == expected, name
        assert all(runner.tokens_evicted for runner in drafter.models.values() if isinstance(runner, SinkRunner)), name


@pytest.mark.parametrize("kind", ["gpt_neox", "qwen3", "phi", "gptj", "bloom"])
def test_other_architectures_give_the_text_of_ar_too(kind):
    model, near = build(kind, 0), build(kind, 0)
    for parameter in near.parameters():
        parameter.mul_(1.0 + 0.05 * torch.randn_like(parameter))
    run = lambda drafter: text(decode(SinkRunner(model, None, 4, 68, 32), drafter, 150))
    assert run(ModelDrafter(SinkRunner(near, None, 4, 68, 32), FixedLength(4))) == run(NoDraft())


@pytest.mark.parametrize("kind", tiered(["relu_tied", "gated_untied", "mt5"], ["gated_untied"]))
def test_encoder_decoder_texts_stream_too(kind):
    model, near = build_encoder_decoder(kind), build_encoder_decoder(kind, seed=1)
    run = lambda drafter: text(decode(SinkRunner(model, None, 4, 68, 32), drafter, 150))
    expected = run(NoDraft())
    assert run(ModelDrafter(SinkRunner(near, None, 4, 68, 32), FixedLength(4))) == expected
    assert run(PromptLookupDrafter(FixedLength(5))) == expected


def test_sampled_texts_come_from_the_same_law_of_chance():
    model = build("llama")
    sampling = Sampling(1.0, top_p=0.9)
    run = lambda: text(decode(SinkRunner(model, None, 4, 68, 32), ModelDrafter(SinkRunner(build("llama", 1), None, 4, 68, 32), FixedLength(3)), 120, sampling=sampling))
    assert run() == run() and len(run()) == 120


def test_no_draft_is_lost_in_a_cascade():
    """Evictions are of committed tokens only, so what is taken back never needs the whole text again."""
    model, near = build("llama", 0), build("llama", 5)
    runners = {"near": SinkRunner(near, None, 4, 68, 32)}
    drafter = csd(runners, [[3, 4], [0, 4]], LenientArgmax(2.0))
    target = SinkRunner(model, None, 4, 68, 32)
    decode(target, drafter, 300)
    assert runners["near"].tokens_evicted <= target.tokens_evicted == EvictionSchedule(4, 68, 32).evicted(len([5] * 7) + 300 - 2)


def test_a_repeated_prompt_is_read_again_and_counters_begin_anew():
    runner = SinkRunner(build("llama"), None, 4, 68, 32)
    prompt = random_ids(random.Random(8), 100)
    first = text(decode(runner, NoDraft(), 40, prompt))
    passes, evicted = runner.forwards, runner.tokens_evicted
    assert text(decode(runner, NoDraft(), 40, prompt)) == first
    assert (runner.forwards, runner.tokens_evicted) == (2 * passes, evicted) and passes == 2 + 39  # 68 tokens, then the other 32


def test_memory_does_not_grow_and_evictions_are_counted():
    model, sizes = build("llama"), set()
    for tokens in (200, 400, 800):
        decoder = Decoder(SinkRunner(model, None, 4, 68, 32), NoDraft(), RejectionVerifier())
        record = generate(decoder, [3, 4, 5], tokens, lambda ids, since: None, GREEDY, (0,)).record()
        sizes.add(record.kv_bytes_target)
        rounds = len({EvictionSchedule(4, 68, 32).evicted(t) for t in range(tokens + 2)} - {0})
        assert (record.compression_count, record.tokens_evicted) == (rounds, 32 * rounds)
    assert len(sizes) == 1
    full = generate(Decoder(ModelRunner(model), NoDraft(), RejectionVerifier()), [3, 4, 5], 200, lambda ids, since: None, GREEDY, (0,)).record()
    assert full.compression_count == full.tokens_evicted == 0 and full.kv_bytes_target > 2 * sizes.pop()


def test_half_precision_keys_stay_near_over_many_evictions():
    rotation, keys = KeyRotation.of(build("llama")), torch.randn(1, 2, 50, 8)
    half = keys.bfloat16()
    for _ in range(7):
        half = rotation.turned(half, -32).bfloat16()
    error = (half.float() - rotation.turned(keys, -224)).norm() / keys.norm()
    assert error < 0.008
    close(rotation.turned(rotation.turned(keys.double(), -32), 32), keys.double())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gpt2", "learns a vector for every position"),
        ("opt", "learns a vector for every position"),
        ("gpt_neo", "learns a vector for every position"),
        ("mistral_sliding", "see a window of 16 tokens, fewer than cache.max_length=256"),
    ],
)
def test_models_whose_keys_cannot_move_are_refused(kind, words):
    with pytest.raises(UserError, match=f"{words}.*choose cache=full"):
        SinkRunner(build(kind))


def test_dynamic_frequencies_and_unknown_types_are_refused_by_name():
    config = build("llama", max_position_embeddings=512).config
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(UserError, match="NAME is a llama model, whose rotary positions of type dynamic change"):
        SinkRunner.longest_text(config, "NAME")
    with pytest.raises(UserError, match="NAME is a gemma3_text model, and cache=sink knows bloom"):
        SinkRunner.longest_text(transformers.Gemma3TextConfig(), "NAME")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 67}, "cache.max_length=67 leaves no window after 4 sinks; give sinks \\+ 2 \\* block = 68 or more"),
        ({"block": 16}, "cache.block=16 evicts too often"),
        ({"sinks": -1}, "cache.sinks=-1 is negative"),
        ({"max_length": 4096}, "cache.max_length=4096 is more than the 2048 positions"),
    ],
)
def test_settings_without_sense_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        SinkRunner(build("llama"), **settings)
    with pytest.raises(UserError, match=words):
        SinkRunner.longest_text(build("llama").config, "NAME", **settings)


def test_texts_longer_than_the_context_have_a_likelihood():
    """Windows that overlap by half, each token predicted once."""
    model = build("llama", max_position_embeddings=40)
    ids = random_ids(random.Random(4), 103)
    total, count = continuation_nll(model, ids[:3], ids[3:])
    seen = [(0, 3, 40), (20, 40, 60), (40, 60, 80), (60, 80, 100), (63, 100, 103)]
    expected = sum(continuation_nll(model, ids[begin:done], ids[done:end])[0] for begin, done, end in seen)
    assert count == 100 and total == pytest.approx(expected, rel=1e-6)


