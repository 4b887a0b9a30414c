"""Beam search: transformers' own beams token for token, Google's rule against an oracle without a cache, and what its records tell.

Equality here is of decisions on float32 sums. A pass over four rows rounds differently from four passes over one (by about 1e-5, see the
test of the runners), so two continuations closer than that may change places. No seed was left out for it: all of `range(n)` are tested,
with random weights that keep the sums well apart.
"""

import itertools
import random

import pytest
import sides
import torch
import transformers as t
from letters import Letters
from tiny_models import CONFIGS, VOCAB, build

from specexp.decoding.beam import BeamDecoder, GnmtRule, Hypothesis, PowerRule, best_first
from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Cut, Facts
from specexp.decoding.sampling import GREEDY, Draws
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import NoDraft
from specexp.errors import UserError
from specexp.experiment.generation import generate
from specexp.experiment.sides import DecoderSide
from specexp.figures.speed import summarise_speed
from specexp.runners.beams import beam_runner
from specexp.runners.compiled import CompiledRunner
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.text.stopping import Stopping

MANY_ENDS = (1, 7, 30, *range(40, 50))  # random models seldom choose one particular id
SETTINGS = list(itertools.product((2, 3, 5), (-1.0, 0.0, 0.6, 1.0, 2.0), (True, False, "never")))


def ends_at(*ends):
    """A `stop` that knows ids only, as transformers' eos_token_id does."""
    return lambda ids, since: next((Cut(i + 1, "eos") for i in range(since, len(ids)) if ids[i] in ends), None)


def never(ids, since):
    return None


def searched(runner, rule, prompt, max_new_tokens=20, stop=never):
    [step] = BeamDecoder(beam_runner(runner), rule).generate(prompt, max_new_tokens, stop, None)
    return step


def prompt_of(seed):
    return [5, 9, (33 + seed) % VOCAB, 2 + seed, 11]


def t5(seed):
    torch.manual_seed(seed)
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = t.T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, **special)
    model = t.T5ForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.3)
    return model


def transformers_text(model, prompt, max_new_tokens, num_beams, alpha, early_stopping, ends):
    inputs = torch.tensor([prompt])
    settings = {"num_beams": num_beams, "length_penalty": alpha, "early_stopping": early_stopping, "eos_token_id": list(ends)}
    text = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0, **settings
    )
    return text[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_power_rule_is_transformers_beam_search(kind):
    """With stop ids that come early, late or never: the model's own text without any tells which."""
    lengths = set()
    for seed in range(5):
        model, prompt, rng = t5(seed) if kind == "t5" else build(kind, seed), prompt_of(seed), random.Random(f"{kind}{seed}")
        free = transformers_text(model, prompt, 20, 3, 1.0, False, [VOCAB + 1])
        for num_beams, alpha, early_stopping in rng.sample(SETTINGS, 14):
            ends = rng.choice([(1,), MANY_ENDS, rng.sample(free[2:], 1), rng.sample(free[5:], 2), rng.sample(free[10:], 1)])
            expected = transformers_text(model, prompt, 20, num_beams, alpha, early_stopping, ends)
            step = searched(ModelRunner(model), PowerRule(num_beams, alpha, early_stopping), prompt, 20, ends_at(*ends))
            assert list(step.tokens) == expected, (seed, num_beams, alpha, early_stopping, ends)
            lengths.add(len(expected))
    assert len(lengths) > 4


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_with_and_without_a_cache(kind):
    model = build(kind)
    expected = transformers_text(model, prompt_of(0), 24, 3, 1.0, False, MANY_ENDS)
    for runner in (ModelRunner(model), StatelessRunner(model)):
        assert list(searched(runner, PowerRule(3), prompt_of(0), 24, ends_at(*MANY_ENDS)).tokens) == expected


def gnmt_oracle(model, prompt, max_new_tokens, num_beams, top_k, min_length, alpha, ends):
    """Google's penalty with finished texts in their places, as it is told, everything computed anew from whole texts, one at a time."""

    def log_probs(ids):
        return model(torch.tensor([prompt + ids]), use_cache=False).logits[0].log_softmax(-1)

    def likeliest(ids, count):
        return [[*ids, token] for token in log_probs(ids)[-1].topk(count).indices.tolist()]

    def score(ids):
        total = sum(log_probs(ids)[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids))
        return total / ((min_length + len(ids)) / (min_length + 1)) ** alpha

    def ended(ids):
        return ids[-1] in ends or len(ids) == max_new_tokens

    places = likeliest([], num_beams)
    while not all(map(ended, places)):
        contenders = [other for ids in places for other in ([ids] if ended(ids) else likeliest(ids, top_k))]
        assert len(set(map(tuple, contenders))) == len(contenders)
        places = sorted(contenders, key=score, reverse=True)[:num_beams]
    return max(places, key=score)


@pytest.mark.parametrize(("num_beams", "top_k", "min_length"), [pytest.param(4, 3, 5, marks=pytest.mark.slow), (3, 1, 0), pytest.param(2, 5, 5, marks=pytest.mark.slow)])
def test_gnmt_rule_is_its_oracle(num_beams, top_k, min_length):
    lengths = set()
    for seed, alpha in itertools.product(range(3), (0.0, 1.2, 3.0)):
        model, rule = build("llama", seed), GnmtRule(num_beams, top_k, min_length, alpha)
        free = searched(StatelessRunner(model), rule, prompt_of(seed), 9).tokens
        ends = (*range(40, 60), free[2 * seed + 2])
        step = searched(ModelRunner(model), rule, prompt_of(seed), 9, ends_at(*ends))
        assert list(step.tokens) == gnmt_oracle(model, prompt_of(seed), 9, num_beams, top_k, min_length, alpha, ends)
        lengths.add(len(step.tokens))
    assert len(lengths) > 2, "texts should end at several lengths"


def test_gnmt_score_counts_whole_length_from_nothing():
    """The original began at a log-probability of 1 and counted one token too few."""
    rule = GnmtRule(min_length=5, alpha=1.2)
    assert rule.score(Hypothesis((7,), -2.0)) == -2.0
    assert rule.score(Hypothesis((7,) * 7, -2.0)) == pytest.approx(-2.0 / 2.0**1.2)


@pytest.mark.parametrize("rule", [GnmtRule(1), PowerRule(1), PowerRule(1, early_stopping=True)])
def test_one_beam_is_greedy_decoding(rule):
    for seed, runner in itertools.product(range(3), (ModelRunner, StatelessRunner)):
        model = build("llama", seed)
        greedy = Decoder(StatelessRunner(model), NoDraft(), RejectionVerifier())
        steps = list(greedy.generate(prompt_of(seed), 20, ends_at(*MANY_ENDS), Draws()))
        step = searched(runner(model), rule, prompt_of(seed), 20, ends_at(*MANY_ENDS))
        assert (step.tokens, step.finish) == (tuple(token for s in steps for token in s.tokens), steps[-1].finish)


class Table:
    """A BeamRunner whose logits depend on the last id alone."""

    facts = Facts("none", "cpu", trees=False, cache_exact=True)

    def __init__(self, seed, vocab=3):
        self.table = torch.randn(vocab + 1, vocab, generator=torch.Generator().manual_seed(seed))

    def start(self, prompt, max_new_tokens, num_beams):
        return self.table[-1:]

    def logits(self, tokens, parents):
        return self.table[list(tokens)]

    def total(self, ids):
        law = self.table.log_softmax(-1)
        return sum(law[before, token].item() for before, token in zip((-1, *ids), ids, strict=False))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_with_beams_enough_the_likeliest_of_all_texts_is_found(alpha):
    """3 ids, of which 2 ends the text; at most 4 tokens."""
    bodies = [body for n in range(5) for body in itertools.product((0, 1), repeat=n)]
    texts = [(*body, 2) for body in bodies if len(body) < 4] + [body for body in bodies if len(body) == 4]
    for seed in range(20):
        table = Table(seed)
        for rule in (PowerRule(40, alpha, "never"), GnmtRule(40, None, 5, alpha)):
            [step] = BeamDecoder(table, rule).generate([0], 4, ends_at(2), None)
            best = max(texts, key=lambda ids: rule.score(Hypothesis(ids, table.total(ids))))
            assert step.tokens == best and step.finish == ("eos" if 2 in best else "length")


def test_no_two_beams_are_equal_and_places_are_never_exceeded():
    for rule in (GnmtRule(4), PowerRule(4), PowerRule(4, top_k=1)):
        decoder = BeamDecoder(beam_runner(ModelRunner(build("llama"))), rule)
        for beams in decoder.search(prompt_of(0), 12, ends_at(*MANY_ENDS)):
            texts = [h.ids for h in (*beams.live, *beams.done)]
            assert len(set(texts)) == len(texts) and max(len(beams.live), len(beams.done)) <= 4
        assert not beams.live and beams.done == tuple(sorted(beams.done, key=rule.score, reverse=True))


def test_early_stopping_ends_at_different_times():
    """Two finished texts of 2 tokens; the live one could pass the worse of them only by growing."""
    done = (Hypothesis((0, 9), -1.0, 0, "eos"), Hypothesis((1, 9), -3.0, 0, "eos"))

    def over(total, early_stopping, alpha=1.0):
        live = iter([Hypothesis((3, 3, 3), total), Hypothesis((3, 3, 4), total - 1)])
        return PowerRule(2, alpha, early_stopping).select(done, live, 30).live == ()

    assert over(-1.0, True) and not over(-1.0, False)
    assert over(-5.0, False) and not over(-5.0, "never")  # -5/3 < -3/2 < -5/30
    assert over(-5.0, "never", alpha=-1.0) and not over(-1.0, "never", alpha=-1.0)  # growing only makes it worse: its present length counts
    assert PowerRule(3).select(done, iter([Hypothesis((3, 3, 3), -99.0)]), 30).live  # only two of three places are taken


def test_beams_stay_full_however_many_continuations_end_the_text():
    """More than the 2 * num_beams that are fetched at once."""
    totals = torch.arange(60.0).flip(0)
    ends = {0, *range(2, 50)}
    extensions = (Hypothesis((token,), total, row, "stop" if token in ends else None) for total, row, token in best_first(totals[None], 4))
    beams = PowerRule(2).select((), extensions, 9)
    assert [h.ids for h in beams.live] == [(1,), (50,)] and [h.ids for h in beams.done] == [(0,)]


def test_the_last_token_looks_at_no_more_than_it_keeps():
    asked = []
    rule = PowerRule(3)
    [step] = BeamDecoder(Table(0, vocab=50), rule).generate([0], 1, lambda ids, since: asked.append(ids), None)
    assert len(asked) == 3 and step.tokens == asked[0] and step.finish == "length"


def test_best_first_is_a_sort():
    totals = torch.randn(3, 7)
    totals[1, 2] = float("-inf")
    expected = sorted(((v.item(), *divmod(i, 7)) for i, v in enumerate(totals.flatten()) if v > -1e30), reverse=True)
    for count in (1, 4, 21, 50):
        assert list(best_first(totals, count)) == expected
    limited = [item for item in expected if item[0] >= totals[item[1]].topk(2).values[-1].item()]
    assert list(best_first(totals, 3, proposals=2)) == limited


@pytest.mark.parametrize("rule", [GnmtRule(4), PowerRule(4)])
def test_hypotheses_end_at_the_first_stop_by_position(rule):
    """Ids are letters. A stop string may end inside a hypothesis only at its last token, where it is finished."""
    model = build("llama", vocab_size=128)
    free = searched(ModelRunner(model), rule, [65, 66], 24)
    assert free.finish == "length" and len(free.tokens) == 24  # ignore_eos: nothing ends a text but its length
    pair = "".join(map(chr, free.tokens[4:6]))
    for stopping in (Stopping(Letters(), (), (pair,)), Stopping(Letters(), {free.tokens[5]}, ("\x00\x00\x00",))):
        step = searched(ModelRunner(model), rule, [65, 66], 24, stopping)
        text = "".join(map(chr, step.tokens))
        if step.finish == "length":
            assert len(text) == 24 and not any(stopping(step.tokens[:n], n - 1) for n in range(1, 25))
        else:
            assert stopping(step.tokens, 0) == Cut(len(step.tokens), step.finish)
            assert text.endswith(pair) if step.finish == "stop" else step.tokens[-1] == free.tokens[5]


@pytest.mark.parametrize("build_model", [lambda: build("llama"), lambda: build("gpt2"), lambda: t5(0)], ids=["llama", "gpt2", "t5"])
def test_cached_logits_are_the_oracles_up_to_rounding(build_model):
    """Rows come and go, are crossed over and doubled; prompts and widths change on the same buffers."""
    model = build_model()
    cached, oracle = beam_runner(ModelRunner(model)), beam_runner(StatelessRunner(model))
    rng = random.Random(0)
    for length, width in ((7, 4), (3, 2), (12, 5)):
        prompt = [rng.randrange(2, VOCAB) for _ in range(length)]
        a, b = (runner.start(prompt, 8, width) for runner in (cached, oracle))
        assert a.shape == (1, VOCAB) and torch.allclose(a, b, atol=1e-4)
        rows = 1
        for _ in range(8):
            wanted = rng.randint(1, width)
            tokens, parents = [rng.randrange(VOCAB) for _ in range(wanted)], [rng.randrange(rows) for _ in range(wanted)]
            a, b = (runner.logits(tokens, parents) for runner in (cached, oracle))
            assert a.shape == (wanted, VOCAB) and torch.allclose(a, b, atol=1e-4)
            rows = wanted
    assert cached.forwards == oracle.forwards == 27


def test_memory_and_passes_of_all_beams_are_told():
    model = build("llama")
    runner = ModelRunner(model)
    decoder = BeamDecoder(beam_runner(runner), PowerRule(4))
    told = generate(decoder, [5, 9, 33], 10, never, GREEDY, (0,)).record()
    alone = generate(Decoder(runner, NoDraft(), RejectionVerifier()), [5, 9, 33], 10, never, GREEDY, (0,)).record()
    assert told.target_forwards == 10 and told.draft_forwards == 0
    assert told.kv_bytes_target == 4 * alone.kv_bytes_target > 0 == told.kv_bytes_draft
    assert told.repeats[0].first_tokens == 10 and told.mean("decode_seconds") == 0 and told.rounds == [] and told.origins == ["target"] * 10
    assert DecoderSide(decoder, GREEDY).facts() == {"lossless": False, "cache_exact": True}


def test_encoder_decoder_models_count_the_source_once():
    model = t5(0)
    decoder = BeamDecoder(beam_runner(ModelRunner(model)), PowerRule(4))
    told = generate(decoder, [5, 9, 33], 10, never, GREEDY, (0,)).record()
    per_slot = 2 * 2 * 32 * 4  # keys and values, layers, heads x width, bytes
    assert told.kv_bytes_target == (4 * 10 + 3) * per_slot


def test_whole_requests_are_compared_when_a_side_gives_its_text_in_one_piece():
    def side(tokens, first, ttft, decode):
        return sides.side(tokens, [], ttft, decode, first_tokens=first, target_forwards=tokens, target_seconds=0.0, draft_seconds=0.0)

    pairs = [(side(10, 10, 2.0, 0.0), side(11, 1, 0.1, 1.0)), (side(1, 1, 0.2, 0.0), side(11, 1, 0.1, 1.0))]
    figures = summarise_speed([sides.record(f"{index}{i}", *pair) for i in range(3) for index, pair in enumerate(pairs)])
    assert figures["speedup"] == figures["e2e_speedup"] == pytest.approx((11 / 2.2) / (22 / 2.2))
    assert figures["speedup_low"] <= figures["speedup"] <= figures["speedup_high"]
    assert figures["tpot"] is None and figures["ttft"] == pytest.approx(1.1) and figures["predicted_speedup"] is None


class OtherRunner(ModelRunner):
    """With any kind of cache that nobody has made fit for beams."""

    kind = "other"


def test_over_beams_a_compiled_models_cache_is_a_full_one():
    assert type(beam_runner(CompiledRunner(build("llama")))) is type(beam_runner(ModelRunner(build("llama"))))


def test_a_cache_of_one_text_is_refused():
    with pytest.raises(UserError, match="cache=other holds one text.*cache=full"):
        beam_runner(OtherRunner(build("llama")))
