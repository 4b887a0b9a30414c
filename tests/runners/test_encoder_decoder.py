"""T5s in the same loop: transformers' text token by token, the oracle's logits after any rollback, and what is refused."""

import random
from collections import Counter

import pytest
import torch
import transformers
from decodes import decode, never, text
from tiers import tiered
from tiny_models import ENCODER_DECODER, VOCAB, build, build_encoder_decoder

from specexp.assets import asset_path
from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import GREEDY, Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.errors import UserError
from specexp.experiment.generation import continuation_nll, opening
from specexp.models import loading
from specexp.models.pair import ModelPair
from specexp.models.spec import ModelSpec
from specexp.runners.lengths import context_length
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.text.stopping import Stopping

SOURCE = [5, 17, 33, 17, 60, 5, 17, 1]
SHIPPED = asset_path("asset:tiny_t5")


def generated(model, tokens=48, source=SOURCE):
    """transformers' greedy text, its end made an ordinary token."""
    out = model.generate(torch.tensor([source]), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, 1:].tolist()


def near(kind, amount=0.05, **settings):
    """A draft that often agrees with `build_encoder_decoder(kind)`."""
    model = build_encoder_decoder(kind, **settings)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.mul_(1.0 + amount * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", tiered(ENCODER_DECODER, ["gated_untied", "mt5"]))
def test_methods_give_the_oracles_and_transformers_text(kind):
    model = build_encoder_decoder(kind)
    expected = generated(model)
    assert len(set(expected)) > 3
    assert text(decode(StatelessRunner(model), NoDraft(), prompt=SOURCE)) == expected
    assert text(decode(ModelRunner(model), NoDraft(), prompt=SOURCE)) == expected
    for draft in (model, near(kind), build_encoder_decoder(kind, seed=1, num_decoder_layers=1)):
        for gamma in (1, 2, 4, 7):
            drafter = ModelDrafter(ModelRunner(draft), FixedLength(gamma))
            assert text(decode(ModelRunner(model), drafter, prompt=SOURCE, first_target=gamma != 2)) == expected
    drafter = ModelDrafter(StatelessRunner(near(kind)), FixedLength(3))
    assert text(decode(StatelessRunner(model), drafter, prompt=SOURCE)) == expected
    assert text(decode(ModelRunner(model), PromptLookupDrafter(FixedLength(5)), prompt=SOURCE)) == expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ENCODER_DECODER)
def test_memo_equals_stateless_forward(kind, attention):
    rng, model = random.Random(kind), build_encoder_decoder(kind, dtype=torch.float64, num_decoder_layers=4)
    model.set_attn_implementation(attention)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    for _ in range(4):
        source = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 40))]
        context = Context(runner.start(source))
        assert oracle.start(source) == context.ids == [0]
        for _ in range(14):
            draft = Draft.of_ids([rng.randrange(VOCAB) for _ in range(rng.randrange(0, 7))])
            rows = len(draft) + 1
            torch.testing.assert_close(runner.logits(context, draft, rows), oracle.logits(context, draft, rows))
            if rng.random() < 0.2:
                continue  # ask again about the same context
            context.append([*draft.ids[: rng.randrange(0, len(draft) + 1)], rng.randrange(VOCAB)])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)], ids=["greedy", "multinomial"])
def test_rollout_equals_stateless_rollout(sampling):
    model = build_encoder_decoder("gated_untied", dtype=torch.float64)
    runner, oracle = ModelRunner(model), StatelessRunner(model)
    context = Context(runner.start(SOURCE))
    oracle.start(SOURCE)
    for index in range(6):
        fast, slow = (each.rollout(context, 4, Draws(sampling, (index,))) for each in (runner, oracle))
        assert fast.ids == slow.ids
        context.append([*fast.ids[: index % 5], index])


def test_source_is_read_once_and_only_new_tokens_are_fed():
    model = build_encoder_decoder("relu_tied")
    read, fed = [], []
    model.get_encoder().register_forward_pre_hook(lambda module, args, kwargs: read.append(kwargs["input_ids"].tolist()), with_kwargs=True)
    model.register_forward_pre_hook(lambda module, args, kwargs: fed.append(kwargs["decoder_input_ids"].shape[1]), with_kwargs=True)
    runner = ModelRunner(model)
    context = Context(runner.start(SOURCE))
    assert read == []  # a draft that is never asked costs nothing
    draft = Draft.of_ids([1, 2, 3, 4])
    runner.logits(context, draft, 5)
    context.append([1, 2, 9])  # two accepted, then another token
    runner.logits(context, draft, 5)
    context.append([1, 2, 3, 4, 7])  # all accepted
    runner.logits(context, empty_draft(), 1)
    assert (read, fed, runner.forwards) == ([[SOURCE]], [5, 5, 1], 3)
    again = Context(runner.start(SOURCE))
    runner.logits(again, empty_draft(), 1)
    assert read == [[SOURCE]] * 2


def test_rolled_back_keys_equal_a_fresh_prefill_and_bytes_count_the_source():
    model = build_encoder_decoder("gated_tied", dtype=torch.float64)
    used, fresh = ModelRunner(model), ModelRunner(model)
    context = Context(used.start(SOURCE, 30))
    fresh.start(SOURCE, 30)
    for i in range(5):
        used.logits(context, Draft.of_ids([3, 4, 5, 6]), 5)
        context.append([3, 4, 40 + i][i % 3 :])
    used.logits(context, empty_draft(), 1)
    fresh.logits(context, empty_draft(), 1)
    for ours, theirs in zip(used.cache.keys + used.cache.values, fresh.cache.keys + fresh.cache.values, strict=True):
        torch.testing.assert_close(ours[:, :, : len(context)], theirs[:, :, : len(context)])
    slot = 2 * 2 * (4 * 8) * 8  # decoder layers, keys and values, heads x width, float64
    assert fresh.kv_bytes == (len(context) + len(SOURCE)) * slot


def test_all_accepted_and_never_more_than_asked_for():
    model = build_encoder_decoder("relu_tied")
    for tokens in (1, 2, 7, 50):
        steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(model), FixedLength(4)), tokens, prompt=SOURCE)
        assert all(step.accepted == step.drafted for step in steps)
        assert len(text(steps)) == tokens and steps[-1].finish == "length"


def test_prompt_lookup_copies_from_the_source():
    model = build_encoder_decoder("relu_tied")
    copied = generated(model, 8)
    source = [*SOURCE[:-1], *copied, 1]
    follows = PromptLookupDrafter(FixedLength(3))
    follows.start(source, 20)
    assert follows.propose(Context([0, *copied[:3]]), 9, Draws()).ids == tuple(copied[3:6])
    expected = generated(model, 30, source)
    assert text(decode(ModelRunner(model), follows, 30, prompt=source)) == expected


def test_draft_with_another_padded_vocabulary():
    target = build_encoder_decoder("relu_tied")
    expected = generated(target)
    for width in (VOCAB - 40, VOCAB + 16):
        draft = build_encoder_decoder("relu_tied", seed=1, vocab_size=width)
        drafter = ModelDrafter(ModelRunner(draft, VOCAB), FixedLength(3))
        assert text(decode(ModelRunner(target), drafter, prompt=SOURCE)) == expected


@pytest.mark.slow
def test_sampling_follows_the_targets_law():
    """First two tokens, speculated, against the exact law of the model: a chi-square that a lost residual or a stale cache fails."""
    model, draft, sampling = build_encoder_decoder("relu_tied"), near("relu_tied", 0.5), Sampling(1.0, top_k=3)
    oracle, count, seen = StatelessRunner(model), 1200, Counter()
    decoder = Decoder(ModelRunner(model), ModelDrafter(ModelRunner(draft), FixedLength(2)), RejectionVerifier(), False)
    for seed in range(count):
        steps = decoder.generate(SOURCE, 2, never, Draws(sampling, (seed,)))
        seen[tuple(token for step in steps for token in step.tokens)] += 1
    start = oracle.start(SOURCE)
    first = sampling(oracle.logits(Context(start), empty_draft(), 1))[0]
    law = {}
    for a in first.nonzero()[:, 0].tolist():
        second = sampling(oracle.logits(Context([*start, a]), empty_draft(), 1))[0]
        law |= {(a, b): float(first[a] * second[b]) for b in second.nonzero()[:, 0].tolist()}
    assert set(seen) <= set(law)
    chi_square = sum((seen[pair] - count * p) ** 2 / (count * p) for pair, p in law.items() if count * p > 5)
    assert chi_square < 32  # 8 degrees of freedom: exceeded by chance once in 10,000; the draws are seeded


def test_likelihood_and_text_belong_to_the_decoder():
    model = build_encoder_decoder("gated_untied", dtype=torch.float64)
    ids = generated(model, 12)
    labels = torch.tensor([ids])
    loss = model(input_ids=torch.tensor([SOURCE]), labels=labels).loss.item()
    total, count = continuation_nll(model, SOURCE, ids)
    assert count == 12 and abs(total / count - loss) < 1e-6  # likelihoods are taken in float32
    assert opening(model, SOURCE) == [0] and opening(build("llama"), SOURCE) == SOURCE


class Pieces:
    """Like SentencePiece: a leading space is dropped at the start of what is decoded, and the start token decodes to nothing."""

    def decode(self, ids, **_):
        return "".join(["", " a", " fire", " died"][i] for i in ids).removeprefix(" ")


def test_text_behind_a_start_token_is_the_whole_text():
    assert Stopping(Pieces()).text([0], [1, 2, 3]) == "a fire died"


# Refusals


def test_token_trees_are_refused():
    runner = ModelRunner(build_encoder_decoder("relu_tied"))
    runner.start(SOURCE)
    assert not runner.facts.trees
    with pytest.raises(ValueError, match="a t5 model .* cannot score token trees"):
        runner.logits(Context([0]), Draft(torch.tensor([4, 5]), (ROOT, ROOT)), 3)
    with pytest.raises(ValueError, match="a t5 model .* cannot grow token trees; choose a method that drafts chains"):
        DrawnTreeDrafter(runner, FixedShape([2]))
    with pytest.raises(ValueError, match="a t5 model .* cannot verify token trees; choose a method that drafts chains"):
        Decoder(runner, DrawnTreeDrafter(ModelRunner(build("llama")), FixedShape([2])), RejectionVerifier())


def test_a_pair_of_two_kinds_is_refused(tmp_path):
    build_encoder_decoder("relu_tied").save_pretrained(tmp_path / "t5")
    build("llama").save_pretrained(tmp_path / "llama")
    for target, draft in (("t5", "llama"), ("llama", "t5")):
        pair = ModelPair("pair", ModelSpec(str(tmp_path / target)), ModelSpec(str(tmp_path / draft)))
        with pytest.raises(UserError, match=r"t5 is an encoder-decoder model and .*llama is decoder-only, .* choose two of one kind\.$"):
            pair.check()
    ModelPair("pair", ModelSpec(str(tmp_path / "t5"))).check()


def test_other_encoder_decoder_models_are_refused(tmp_path):
    config = transformers.BartConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16
    )
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"encoder-decoder model \(bart\) that cannot run: choose one of t5 or mt5"):
        ModelPair("pair", ModelSpec(str(tmp_path))).check()
    with pytest.raises(UserError, match=r"encoder-decoder model \(bart\)"):
        loading.load_model(ModelSpec(str(tmp_path), device="cpu"))


@pytest.mark.parametrize("kind", ENCODER_DECODER)
def test_saved_models_load_as_they_were(kind, tmp_path):
    """An output projection of its own, as FLAN-T5 has, survives a configuration that always says `tied`."""
    model = build_encoder_decoder(kind)
    model.save_pretrained(tmp_path)
    loaded = loading.load_model(ModelSpec(str(tmp_path), device="cpu"))
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert (loaded.lm_head.weight is loaded.shared.weight) == kind.endswith("_tied")
    assert context_length(loaded.config) is None
    assert generated(loaded) == generated(model)
