"""The experiment on toy parts: who goes first, what is counted, what is refused."""

from dataclasses import dataclass, replace

import pytest
import torch
from tiny_models import VOCAB, build, build_encoder_decoder

from specexp.datasets import Example as Prompt
from specexp.decoding.decoder import Decoder, Round
from specexp.decoding.draft import chain_parents
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Sampling
from specexp.decoding.verifiers import RejectionVerifier, SkipSampleAdjustment
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.errors import UserError
from specexp.experiment.experiment import Experiment, quality_figures
from specexp.experiment.generation import Generation, continuation_nll, opening
from specexp.experiment.sides import DecoderSide, OwnTexts, ServedTexts
from specexp.figures.record import Record
from specexp.figures.speed import summarise_speed
from specexp.peers.endpoint import Reply
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.static import StaticRunner
from specexp.text import Prompter
from specexp.text.stopping import Stopping


class Numbers:
    """Prompts and texts are numbers with spaces between."""

    chat_template = None

    def __call__(self, text, **_):
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids, **_):
        return "".join(f"{i} " for i in ids)


class Lengths:
    """Scores a text by its number of words."""

    name, stop_strings = "lengths", ()

    def score(self, example, text):
        return {"words": len(text.split())}

    def metrics(self, scores):
        return {"words": sum(s["words"] for samples in scores for s in samples) / len(scores)}


EXAMPLES = [Prompt(str(i), f"{i % VOCAB} 3 {(7 * i) % VOCAB}") for i in range(8)]


def experiment(sampling=Sampling(0.0), verifier=RejectionVerifier, max_new_tokens=9, context_length=None, **options):
    model, draft = build("llama"), build("llama", 1)
    decoders = {
        "baseline": Decoder(ModelRunner(model), NoDraft(), RejectionVerifier()),
        "method": Decoder(ModelRunner(model), ModelDrafter(ModelRunner(draft), FixedLength(3)), verifier()),
    }
    tokenizer = Numbers()
    reader = OwnTexts(Lengths(), Prompter(tokenizer), Stopping(tokenizer), max_new_tokens, context_length, models={"target": model})
    return Experiment({name: DecoderSide(decoder, sampling) for name, decoder in decoders.items()}, reader, max_new_tokens, **options)


def recorded(run, done=frozenset()):
    return list(run.records(EXAMPLES, run.reader.prompts(EXAMPLES), set(done)))


def test_both_sides_go_first_and_a_resumed_run_keeps_the_order():
    records = recorded(experiment())
    orders = [tuple(r.order) for r in records]
    assert sorted(orders) == [("baseline", "method")] * 4 + [("method", "baseline")] * 4
    assert all(first != second for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert [r.id for r in records] == [e.id for e in EXAMPLES]
    resumed = recorded(experiment(), done={(str(i), 0) for i in range(5)})
    assert [(r.id, tuple(r.order), r.method.token_ids) for r in resumed] == [
        (r.id, tuple(r.order), r.method.token_ids) for r in records[5:]
    ]


def test_counts_agree_with_the_tokens():
    for record in recorded(experiment()):
        base, side = record.baseline, record.method
        assert base.token_ids == side.token_ids and side.finish == "length"
        assert side.score == {"words": 9} and side.text == base.text
        assert base.rounds == [[0, 0]] * 8 and base.target_forwards == 9 and base.draft_forwards == 0
        assert 1 + sum(accepted + 1 for _, accepted in side.rounds) == 9
        assert side.target_forwards == 1 + len(side.rounds)
        assert side.draft_forwards == sum(drafted for drafted, _ in side.rounds)
        assert side.origins.count("draft") == sum(accepted for _, accepted in side.rounds)
        assert side.nll_sum == base.nll_sum > 0 and side.nll_count == 9
        assert side.lossless and side.cache_exact and side.repeats_agree
        assert side.kv_bytes_target >= base.kv_bytes_target > 0 == base.kv_bytes_draft
        assert 0 < side.mean("target_seconds") + side.mean("draft_seconds") < side.mean("decode_seconds")


def test_likelihood_is_transformers_loss_on_the_continuation():
    model, prompt, ids = build("llama"), [5, 9, 33], [7, 7, 60, 2]
    labels = torch.tensor([[-100] * len(prompt) + ids])
    loss = model(torch.tensor([prompt + ids]), labels=labels).loss
    total, count = continuation_nll(model, prompt, ids)
    assert count == 4 and total == pytest.approx(4 * loss.item(), rel=1e-5)


def test_samples_differ_and_repeats_do_not_change_them():
    sampling = Sampling(1.0)
    once = recorded(experiment(sampling, samples=3))
    assert len(once) == 24 and len({tuple(r.method.token_ids) for r in once if r.id == "1"}) > 1
    repeated = recorded(experiment(sampling, samples=3, repeats=2))
    assert [r.method.token_ids for r in repeated] == [r.method.token_ids for r in once]


@dataclass
class Told:
    """A side that answers at once and writes down when it was asked. texts: lengths of its answers, one after another."""

    name: str
    asked: list
    texts: list
    concurrency: int = 1
    lossless: bool = True

    def generate(self, prompt, max_new_tokens, stop, seed):
        self.asked.append(self.name)
        tokens = self.texts.pop(0) if self.texts else 4
        return Reply("a" * tokens, "stop", (0.1, 0.1 + 0.05 * tokens), tokens, 3, tokens, 1, 0.0)

    def facts(self):
        return {"lossless": True, "cache_exact": True}

    def close(self):
        pass


def told(names, **options):
    asked = []
    sides = {name: Told(name, asked, []) for name in names}
    return Experiment(sides, ServedTexts(Lengths()), 9, **options), asked


def test_with_four_sides_each_comes_first_and_last_and_between():
    names = ["method", "baseline", "baseline_a", "baseline_b"]
    examples = [Prompt(str(number), "1 2") for number in range(60)]
    run, asked = told(names, seed=3)
    records = list(run.records(examples, {example.id: example.prompt for example in examples}, set()))
    orders = [record.order for record in records]
    assert [name for order in orders for name in order] == asked
    for name in names:
        places = [order.index(name) for order in orders]
        assert all(places.count(place) >= 5 for place in range(4)), (name, places)
        assert sum(places) == 1.5 * len(places)  # a shuffle and the same backwards
    again, _ = told(names, seed=3)
    done = {(str(number), 0) for number in range(17)}
    resumed = list(again.records(examples, {example.id: example.prompt for example in examples}, done))
    assert [record.order for record in resumed] == orders[17:]


def test_repeats_that_become_other_texts_keep_their_own_tokens_and_seconds():
    run, _ = told(["method"], repeats=2)
    run.sides["method"].texts = [4, 8]
    [record] = run.records([Prompt("a", "1 2")], {"a": "1 2"}, set())
    side = record.method
    assert not side.repeats_agree and [repeat.tokens for repeat in side.repeats] == [4, 8]
    found = summarise_speed([record])
    assert found["tpot"] == pytest.approx((0.2 + 0.4) / (3 + 7)) and found["unequal_repeats"] == 1
    assert Record.from_json(record.to_json()) == replace(record, sides={"method": replace(side, score=side.score)})


def test_a_first_emission_that_is_a_round_is_counted_apart():
    """Three tokens come in the first emission and three in every later one: three tokens a round, not fewer."""
    rounds = [Round((1, 2, 3), (1, 2), chain_parents(2), (0, 1))] * 5
    made = Generation(tuple(rounds), (0.5, 0.6, 0.7, 0.8, 0.9), 5, {}, 0, 0, (0,) * 5, None, True)
    side = made.record()
    assert side.first_rounds == 1 and len(side.rounds) == 5 and made.repeat().rounds == 4 and made.repeat().drafted == 8
    record = Record("a", 0, "1 2", ["method"], {"method": replace(side, text="x")})
    found = summarise_speed([record])
    assert found["tokens_per_emission"] == 3 and found["itl"] == pytest.approx(0.1) and found["mean_acceptance_length"] == 3


def test_the_ids_that_a_text_begins_with_need_no_runner(monkeypatch):
    monkeypatch.setattr(StatelessRunner, "__init__", lambda *_: pytest.fail("a runner was built"))
    assert opening(build("llama"), [5, 6]) == [5, 6]
    assert opening(build_encoder_decoder("t5"), [5, 6]) == [0]


def test_prompts_that_do_not_fit_are_refused_before_anything_is_decoded():
    with pytest.raises(UserError, match="3 prompt tokens and max_new_tokens=9 more do not fit the models' context of 11"):
        experiment(context_length=11).reader.prompts(EXAMPLES)
    assert experiment(context_length=12).reader.prompts(EXAMPLES)
    with pytest.raises(UserError, match="prompt of empty is empty"):
        experiment().reader.prompts([Prompt("empty", "")])


def test_quality_is_told_for_every_side_and_losses_are_marked():
    run = experiment()
    assert quality_figures(run.reader.dataset, recorded(run)) == {"words": 9.0, "baseline_words": 9.0}
    assert run.sides["method"].facts() == {"lossless": True, "cache_exact": True}
    assert experiment(verifier=SkipSampleAdjustment).sides["method"].facts()["lossless"] is False


@torch.inference_mode()
def test_warming_up_makes_buffers_and_programs_for_whole_texts():
    """What is made later is timed."""
    model = build("llama")
    target, draft = StaticRunner(model, block=16), StaticRunner(model, block=16)
    decoder = Decoder(target, ModelDrafter(draft, FixedLength(3)), RejectionVerifier())
    prompts = {"a": list(range(9)), "b": list(range(40))}
    warmed = replace(experiment(max_new_tokens=200), sides={"method": DecoderSide(decoder, Sampling(0.0))})
    warmed.warm_up(list(prompts.values()))
    made = target.capture.made, draft.capture.made
    assert len(list(warmed.records([Prompt(name, "") for name in prompts], prompts, set()))) == 2
    assert (target.capture.made, draft.capture.made) == made
