"""The cached runner is the stateless forward pass, whatever was asked before: prefixes, rollbacks, trees, other texts."""

import random
from dataclasses import FrozenInstanceError

import pytest
import torch
from drafts import random_draft, walk
from tiny_models import CONFIGS, TREES, VOCAB, WINDOWED, build, build_encoder_decoder

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.protocols import Usage
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.runners.beams import beam_runner
from specexp.runners.calls import ChainMasks
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner
from specexp.runners.static import StaticRunner


@pytest.mark.parametrize("kind", CONFIGS)
def test_memo_equals_stateless_forward(kind):
    rng = random.Random(kind)
    model = build(kind, dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    for _ in range(3):
        context = Context([rng.randrange(VOCAB) for _ in range(rng.randrange(1, 20))])
        runner.start(context.ids)
        for _ in range(12):
            draft = random_draft(rng, rng.randrange(0, 7), tree=kind in TREES and rng.random() < 0.6)
            rows = len(draft) + 1
            got, expected = runner.logits(context, draft, rows), oracle.logits(context, draft, rows)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)  # GPT-J attends in float32
            if rng.random() < 0.2:
                continue  # ask again about the same context
            context.append([*walk(rng, draft), rng.randrange(VOCAB)])


def test_forks_of_a_context_are_told_apart():
    rng, model = random.Random(0), build("llama", dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    trunk = Context([rng.randrange(VOCAB) for _ in range(9)])
    runner.start(trunk.ids)
    for _ in range(20):
        branch = trunk.fork()
        branch.append([rng.randrange(3) for _ in range(rng.randrange(1, 5))])
        for context in (branch, trunk):
            torch.testing.assert_close(runner.logits(context, empty_draft(), 1), oracle.logits(context, empty_draft(), 1))
        trunk.append([*branch.ids[len(trunk) : len(trunk) + rng.randrange(0, 3)], rng.randrange(VOCAB)])


def test_a_fork_older_than_the_trunk_is_compared_where_they_part():
    model = build("llama", dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    trunk = Context([1, 2, 3, 4])
    branch = trunk.fork()
    branch.append([5, 6, 7, 8])
    trunk.append([9, 10, 11, 12, 13])
    for context in (trunk, branch, trunk):
        torch.testing.assert_close(runner.logits(context, empty_draft(), 1), oracle.logits(context, empty_draft(), 1))


@pytest.mark.parametrize("capacity", [0, 300])
def test_long_texts_outgrow_buffers_and_masks_without_a_change(capacity):
    model, rng = build("llama", dtype=torch.float64), random.Random(1)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    context = Context([rng.randrange(VOCAB) for _ in range(200)])
    runner.start(context.ids, capacity)
    for _ in range(30):
        draft = random_draft(rng, rng.randrange(0, 20), tree=rng.random() < 0.5)
        got, expected = runner.logits(context, draft, len(draft) + 1), oracle.logits(context, draft, len(draft) + 1)
        torch.testing.assert_close(got, expected)
        context.append([rng.randrange(VOCAB) for _ in range(12)])
    assert len(context) > 512


def test_masks_begin_where_attention_kernels_can_read_them():
    masks = ChainMasks(torch.float32, torch.device("cpu"))
    for filled in range(1, 600, 7):
        for width in (2, 5, 17):
            mask = masks(filled, width)
            assert mask.shape == (1, 1, width, filled + width)
            assert mask.storage_offset() % 8 == 0 and mask.stride(2) % 8 == 0
            seen = torch.ones(width, filled + width).tril(filled)
            assert torch.equal(mask[0, 0] == 0, seen == 1)


def test_growing_a_tree_feeds_each_node_once():
    model = build("llama", dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    context = Context(list(range(10)))
    draft = Draft(torch.tensor([5, 6]), (ROOT, ROOT))
    runner.logits(context, empty_draft(), 1)
    runner.logits(context, draft, 2)
    for level in range(1, 4):
        tokens = torch.arange(level, level + 3)
        draft = draft.grow(tokens, (len(draft) - 1, len(draft) - 1, len(draft) - 2))
        before = runner.cache.length
        torch.testing.assert_close(runner.logits(context, draft, 3), oracle.logits(context, draft, 3))
        assert runner.cache.length == before + 3


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0)], ids=["greedy", "multinomial"])
def test_rollout_equals_stateless_rollout(sampling):
    model = build("llama", dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    context = Context(list(range(12)))
    for round_index in range(6):
        fast = runner.rollout(context, 4, Draws(sampling, (round_index,)))
        slow = oracle.rollout(context, 4, Draws(sampling, (round_index,)))
        assert fast.ids == slow.ids
        if fast.q is not None:
            torch.testing.assert_close(fast.q, slow.q)
        context.append([*fast.ids[: round_index % 5], round_index])


def test_start_forgets_and_rolled_back_keys_equal_a_fresh_prefill():
    model = build("llama", dtype=torch.float64)
    used, fresh = ModelRunner(model), ModelRunner(model)
    context = Context(list(range(8)))
    for i in range(5):
        used.logits(context, random_draft(random.Random(i), 5, tree=True), 6)
        context.append([40 + i, 50 + i])
    used.logits(context, empty_draft(), 1)
    fresh.logits(context, empty_draft(), 1)
    for ours, theirs in zip(used.cache.keys + used.cache.values, fresh.cache.keys + fresh.cache.values, strict=True):
        torch.testing.assert_close(ours[:, :, : len(context)], theirs[:, :, : len(context)])
    before = used.forwards
    used.start(context.ids)
    used.logits(context, empty_draft(), 1)
    assert used.forwards == before + 1 and used.cache.length == len(context)
    assert used.kv_bytes == len(context) * 2 * 2 * (2 * 8) * 8  # layers, keys and values, KV heads x width, float64


def test_one_pass_per_question_and_only_new_tokens_are_fed():
    model = build("llama")
    fed = []
    model.register_forward_pre_hook(lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    runner, context = ModelRunner(model), Context(list(range(20)))
    draft = Draft.of_ids([1, 2, 3, 4])
    runner.logits(context, draft, 5)
    context.append([1, 2, 9])  # two accepted, then another token
    runner.logits(context, draft, 5)
    context.append([1, 2, 3, 4, 7])  # all accepted
    runner.logits(context, empty_draft(), 1)
    assert fed == [24, 5, 1]


@pytest.mark.parametrize("kind", sorted({*CONFIGS} - {*TREES, *WINDOWED}))
def test_trees_are_refused_where_they_would_be_wrong(kind):
    runner = ModelRunner(build(kind))
    with pytest.raises(ValueError, match=f"a {CONFIGS[kind]().model_type} model .* cannot score token trees"):
        runner.logits(Context([1, 2, 3]), Draft(torch.tensor([4, 5]), (ROOT, ROOT)), 3)
    with pytest.raises(ValueError, match="cannot grow token trees"):
        DrawnTreeDrafter(runner, FixedShape([2]))
    with pytest.raises(ValueError, match="cannot verify token trees"):
        Decoder(runner, DrawnTreeDrafter(ModelRunner(build("llama")), FixedShape([2])), RejectionVerifier())


def test_narrower_and_wider_vocabularies_meet_the_targets():
    model = build("llama")
    context = Context([1, 2, 3])
    assert ModelRunner(model, VOCAB - 4).logits(context, empty_draft(), 1).shape == (1, VOCAB - 4)
    padded = ModelRunner(model, VOCAB + 8).logits(context, empty_draft(), 1)
    assert padded.shape == (1, VOCAB + 8) and Sampling(1.0)(padded)[0, VOCAB:].sum() == 0


def test_a_request_too_large_for_the_machine_leaves_the_runner_whole():
    model = build("llama")
    runner, context = ModelRunner(model), Context(list(range(8)))
    runner.start(context.ids, 10**13)
    with pytest.raises(RuntimeError, match="allocate"):
        runner.logits(context, empty_draft(), 1)
    runner.start(context.ids, 4)
    expected = StatelessRunner(model).logits(context, empty_draft(), 1)
    torch.testing.assert_close(runner.logits(context, empty_draft(), 1), expected)


@pytest.mark.parametrize("kind", [ModelRunner, StatelessRunner, StaticRunner, lambda model: SinkRunner(model, None, 4, 68, 32)])
def test_usage_counts_from_the_last_start(kind):
    runner = kind(build("llama"))
    assert runner.usage() == Usage(0, runner.kv_bytes, 0)
    told = []
    for length in (100, 100, 30):
        context = Context([i % VOCAB for i in range(length)])
        runner.start(context.ids, 30)
        assert (runner.usage().forwards, runner.usage().evicted) == (0, 0)
        for token in range(3):
            runner.logits(context, empty_draft(), 1)
            context.append([token])
        runner.rollout(context, 2, Draws())
        told.append(runner.usage())
    assert told[0] == told[1] and told[2].forwards == 5 and told[2].evicted == 0
    assert told[2].kv_bytes == runner.kv_bytes and runner.forwards == sum(usage.forwards for usage in told)
    if isinstance(runner, SinkRunner):
        assert told[0].evicted == 64 and told[0].forwards == 6  # the prompt was read in two parts


@pytest.mark.parametrize("model", [lambda: build("llama"), lambda: build_encoder_decoder("relu_tied")], ids=["llama", "t5"])
@pytest.mark.parametrize("kind", [ModelRunner, StatelessRunner])
def test_usage_of_beams_counts_from_the_last_start_too(kind, model):
    runner, told = beam_runner(kind(model())), []
    for _ in range(2):
        runner.start([5, 6, 7], 8, 2)
        for _ in range(3):
            runner.logits([1, 2], [0, 0])
        told.append(runner.usage())
    assert told[0] == told[1] and told[0].forwards == 4 and bool(told[0].kv_bytes) is (kind is ModelRunner)


def test_facts_are_what_a_runner_always_is():
    model = build("llama")
    told = {runner.facts.kind: runner.facts for runner in (ModelRunner(model), StatelessRunner(model), StaticRunner(model), SinkRunner(model))}
    assert [*told] == ["full", "none", "static", "sink"] and all(facts.trees and facts.device == model.device for facts in told.values())
    assert [kind for kind, facts in told.items() if not facts.cache_exact] == ["sink"]
    assert not ModelRunner(build("bloom")).facts.trees and StatelessRunner(build("bloom")).facts.trees
    with pytest.raises(FrozenInstanceError):
        told["full"].trees = False


class GreedyOnTheDevice(Draws):
    """Greedy draws that the shortcut for greedy rollouts on the CPU does not know as such."""

    def __init__(self):
        super().__init__()
        self.is_greedy = False

    def token(self, logits):
        return logits.argmax(-1), None


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_greedy_rollout_on_the_host_is_the_one_on_the_device(length):
    model, context = build("llama"), Context([5, 6, 7, 8])
    drafts = []
    for draws in (Draws(), GreedyOnTheDevice()):
        runner = ModelRunner(model)
        runner.start(context.ids)
        drafts.append(runner.rollout(context, length, draws))
    on_host, on_device = drafts
    assert on_host.ids == on_device.ids == tuple(on_device.tokens.tolist()) == tuple(on_host.tokens.tolist())
    assert on_host.q is on_device.q is None and on_host.is_chain and on_device.is_chain


@pytest.mark.parametrize("width", [1, 2, 63, 64, 65, 200])
def test_passes_of_one_width_do_not_read_each_others_tokens(width):
    """The host's tensors of a few ids are written over by the next pass."""
    model = build("llama", dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    context = Context([3])
    runner.start(context.ids, 2 * width + 1)
    held = []
    for start in (1, 2):
        draft = Draft.of_ids([(start + i) % VOCAB for i in range(width - 1)])
        held.append((draft, runner.logits(context, draft, width), oracle.logits(context, draft, width)))
    for draft, got, expected in held:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert draft.tokens.tolist() == list(draft.ids)
