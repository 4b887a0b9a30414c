"""Drafters of a chosen acceptance rate: the rate is met, position by position; the text is the target's; what costs is counted."""

import json
import math

import pytest
import torch
from decodes import PROMPT, decode, text
from running import composed, run
from tiers import tiered
from tiny_models import build

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import EGAG, ConfidenceThreshold, FixedLength
from specexp.decoding.sampling import GREEDY, Draws
from specexp.decoding.theory import expected_tokens
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.drafters.synthetic import Foresight, PlantedDrafter, Spoiling, SyntheticDrafter
from specexp.errors import UserError
from specexp.experiment.generation import generate
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.tracking.records import read_records


def synthetic(model, alpha, gamma=4):
    return SyntheticDrafter(Foresight(ModelRunner(model)), FixedLength(gamma), Spoiling(alpha))


def planted(model, alpha, gamma=4, draft=None, policy=None):
    runner = ModelRunner(build("llama", 1) if draft is None else draft)
    return PlantedDrafter(runner, Foresight(ModelRunner(model)), policy or FixedLength(gamma), Spoiling(alpha))


@pytest.mark.parametrize("make", [synthetic, planted])
@pytest.mark.parametrize("alpha", tiered([0.0, 0.3, 0.8, 1.0], [0.0, 0.8]))
def test_positions_are_accepted_independently_with_the_chosen_rate(make, alpha):
    model = build("llama")
    steps = decode(ModelRunner(model), make(model, alpha), 300)
    assert text(steps) == text(decode(ModelRunner(model), NoDraft(), 300))
    kept, tried = [0] * 4, [0] * 4
    for step in steps:
        for k in range(min(step.drafted, step.accepted + 1)):
            tried[k] += 1
            kept[k] += k < step.accepted
    for right, count in [*zip(kept, tried, strict=True), (sum(kept), sum(tried))]:
        assert abs(right - alpha * count) <= 4 * math.sqrt(alpha * (1 - alpha) * count)  # 1 in 15,000 by chance, and the seed is fixed
    rounds = [step for step in steps if step.drafted == 4]
    if 0 < alpha < 1:
        mean = sum(step.accepted + 1 for step in rounds) / len(rounds)
        assert abs(mean - expected_tokens(alpha, 4)) < 4 * 2 / math.sqrt(len(rounds))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("make", [synthetic, planted])
def test_text_is_the_oracles(kind, make):
    model = build(kind)
    drafter = make(model, 0.6) if make is synthetic else planted(model, 0.6, draft=build(kind, 1))
    steps = decode(ModelRunner(model), drafter, 40)
    assert text(steps) == text(decode(StatelessRunner(model), NoDraft(), 40))
    stages = {origin for step in steps for origin in step.origins}
    assert f"draft:{drafter.stage}" in stages and "draft" not in stages


def test_the_first_token_may_be_drafted_too():
    model = build("llama")
    steps = decode(ModelRunner(model), synthetic(model, 1.0), 20, first_target=False)
    assert steps[0].accepted == 4 and text(steps) == text(decode(ModelRunner(model), NoDraft(), 20))


def test_one_seed_one_pattern():
    model = build("llama")
    rounds = [[step.counts for step in decode(ModelRunner(model), synthetic(model, 0.5), 100, seed=seed)] for seed in (0, 0, 1)]
    assert rounds[0] == rounds[1] != rounds[2]


def generated(model, drafter, tokens=60):
    decoder = Decoder(ModelRunner(model), drafter, RejectionVerifier())
    return generate(decoder, PROMPT, tokens, lambda ids, since: None, GREEDY, (0, "x", 0)).record()


def test_a_planted_draft_makes_the_passes_of_the_real_one():
    """With the target's own weights as the draft and alpha 1 the tokens are those of an ordinary draft: the same passes, row for row."""
    model = build("llama")
    widths = {}
    for name, drafter in (("real", ModelDrafter(ModelRunner(model), FixedLength(4))), ("planted", planted(model, 1.0, draft=model))):
        seen, forward = [], drafter.runner._pass.cached
        drafter.runner._pass.cached = lambda tokens, *rest, seen=seen, forward=forward: seen.append(tokens.shape[0]) or forward(tokens, *rest)
        record = generated(model, drafter)
        widths[name] = (seen, record.draft_forwards, record.draft_forwards_by_model, record.kv_bytes_draft, record.rounds)
    assert widths["real"] == widths["planted"] and widths["real"][1] > 0


def test_a_refused_draft_is_rewound_as_ever():
    model, draft = build("llama"), build("llama", 1)
    record = generated(model, planted(model, 0.5, draft=draft))
    assert record.draft_forwards == sum(drafted for drafted, _ in record.rounds)


def test_a_synthetic_draft_counts_no_pass_and_the_oracle_works_before_the_clock():
    model = build("llama")
    drafter = synthetic(model, 0.8)
    record = generated(model, drafter)
    assert record.draft_forwards == 0 and record.kv_bytes_draft == 0 and record.target_forwards == len(record.rounds) + 1
    before = drafter.foresight.oracle.forwards
    generated(model, drafter)
    assert drafter.foresight.oracle.forwards == before == 60  # of the same prompt nothing is decoded twice


def test_another_text_than_foreseen_is_decoded_without_drafts():
    model = build("llama")
    drafter = synthetic(model, 1.0)
    drafter.start(PROMPT, 20)
    context = Context(PROMPT)
    draws = Draws()
    assert len(drafter.propose(context, 0, draws)) == 0
    foreseen = drafter.propose(context, 8, draws).ids
    context.append(foreseen[:3])
    assert drafter.propose(context, 8, draws).ids[0] == foreseen[3]
    context.append([(foreseen[3] + 1) % 96])
    assert len(drafter.propose(context, 8, draws)) == len(drafter.propose(context, 8, draws)) == 0


def test_policies_may_look_at_the_planted_models_logits_alone():
    model = build("llama")
    steps = decode(ModelRunner(model), planted(model, 0.9, policy=EGAG(1, 6)), 40)
    assert text(steps) == text(decode(ModelRunner(model), NoDraft(), 40)) and any(step.entropy for step in steps)
    with pytest.raises(UserError, match="looks at a draft model's logits"):
        SyntheticDrafter(Foresight(ModelRunner(model)), ConfidenceThreshold(0.4, 8), Spoiling(0.5))


def test_spoilt_tokens_are_always_others():
    foreseen = torch.tensor([0, 1, 5, 7])
    for own in (None, foreseen, torch.tensor([0, 3, 5, 2])):
        wrong = Spoiling(0.0)(foreseen, Draws(), own)
        assert bool((wrong != foreseen).all()) and bool((wrong >= 0).all())
    assert torch.equal(Spoiling(1.0)(foreseen, Draws()), foreseen)


@pytest.mark.parametrize("method", ["synthetic", "planted"])
@pytest.mark.parametrize("overrides", tiered([("cache=full",), ("cache=sink", "cache.max_length=68", "max_new_tokens=60", "ignore_eos=true")], [("cache=full",)]))
def test_runs_by_name(method, overrides, tmp_path):
    run(composed(f"method={method}", "method.alpha=0.7", "max_new_tokens=24", "dataset.limit=1", "warmup=0", *overrides), tmp_path)
    summary, records = json.loads((tmp_path / "summary.json").read_text()), read_records(tmp_path)
    assert summary["method"] == method and summary["lossless"] is True and summary["equal_texts"] == 1.0
    assert all(f"draft:{method}" in record.method.origins for record in records)
    assert all((record.method.draft_forwards > 0) is (method == "planted") for record in records)


@pytest.mark.parametrize(("overrides", "words"), [(("method.alpha=1.5",), "alpha=1.5 is no probability"), (("sampling=nucleus",), "sampling=greedy")])
@pytest.mark.parametrize("method", ["synthetic", "planted"])
def test_what_cannot_be_is_told_before_weights_are_loaded(method, overrides, words, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.experiment.places.OwnModels.open", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match=words):
        run(composed(f"method={method}", *overrides), tmp_path)
