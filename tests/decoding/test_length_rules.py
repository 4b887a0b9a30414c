"""Draft-length policies: the rules as published, the passes they cost, the law and the greedy text they must leave alone."""

from math import log

import pytest
import torch
from decodes import GREEDY, decode, text
from laws import SAMPLINGS, deviation
from tabular import TabularRunner, completed, law_of, total_variation
from tiny_models import build

from specexp.decoding.cost_model import CostModel
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft
from specexp.decoding.length_rules import (
    EGAG,
    AdaEDL,
    CalibratedEGAG,
    ConfidenceThreshold,
    FixedLength,
    HeuristicLength,
    TransientHeuristicLength,
)
from specexp.decoding.protocols import LengthRule
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.errors import UserError
from specexp.experiment.generation import generate
from specexp.runners.runner import ModelRunner, StatelessRunner

POLICIES = {
    "egag": lambda: EGAG(1, 4, ema=0.5),
    "egag_calibrated": lambda: CalibratedEGAG(1, 4),
    "heuristic": lambda: HeuristicLength(2),
    "confidence": lambda: ConfidenceThreshold(0.45, 4),
    "adaedl": lambda: AdaEDL(0.5, 4),
    "cost_model": lambda: CostModel(4),
}


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


UNIFORM, SURE = logits_of(*[1 / 8] * 8), logits_of(0.9993, *[0.0001] * 7)
TOKEN, GREEDILY = torch.tensor(0), Draws()


def chosen(policy, logits, temperature=0.0):
    """The length of a round whose first logits are these, through the interface of the rollout."""
    draws = Draws(Sampling(temperature))
    length = policy.length()
    return next((k for k in range(1, length) if not policy.proceeds(k, logits, TOKEN, draws)), length)


# ---------------------------------------------------------------- law and text
class Anew(ModelDrafter):
    """Every start forgets what was learnt, so that one outcome can be enumerated after the other."""

    def __init__(self, runner, make):
        super().__init__(runner, make())
        self.make = make

    def start(self, prompt, max_new_tokens):
        self.policy = self.make()
        super().start(prompt, max_new_tokens)


def drafting_from_the_start():
    policy = CostModel(3)
    policy._script = [3, 1, 2]
    return policy


LAWS = POLICIES | {"cost_model": drafting_from_the_start}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("policy", LAWS)
def test_round_has_the_targets_law(policy, sampling):
    drafter = lambda draft: Anew(draft, LAWS[policy])
    assert deviation(RejectionVerifier, drafter, sampling, TabularRunner(1), TabularRunner(2)) < 1e-12


@pytest.mark.parametrize("policy", LAWS)
def test_texts_of_several_rounds_have_the_targets_law(policy):
    """Lengths that depend on what was accepted before must not favour any text."""
    target, sampling = TabularRunner(1, vocab=2), Sampling(1.0)
    decoder = Decoder(target, Anew(TabularRunner(2, vocab=2), LAWS[policy]), RejectionVerifier(), first_target=False)

    def one_text(draws):
        return tuple(token for step in decoder.generate([0, 1], 4, lambda ids, since: None, draws) for token in step.tokens)

    emitted, expected = law_of(one_text, sampling), completed({(): 1.0}, target, sampling, [0, 1], 4)
    assert total_variation(emitted, expected) < 1e-12


class DropsTheDraw(ModelDrafter):
    """Broken: a token found unlikely after its draw is taken out of the draft again."""

    def propose(self, context, limit, draws):
        draft = self.runner.rollout(context, min(self.policy.length(), limit), draws, self.policy.proceeds)
        before = context.ids + list(draft.ids[:-1])
        if len(draft) < 2 or self.policy.proceeds(len(draft), self.runner.at(before), draft.tokens[-1], draws):
            return draft
        return Draft.chain(draft.tokens[:-1], draft.q[:-1])


def test_dropping_a_token_after_its_draw_is_caught():
    drops = lambda draft: DropsTheDraw(draft, ConfidenceThreshold(0.45, 4))
    assert deviation(RejectionVerifier, drops, Sampling(1.0), TabularRunner(1), TabularRunner(2)) > 0.001


@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_text_is_the_oracles(policy):
    model, draft = build("llama"), build("llama")
    for parameter in draft.parameters():
        parameter.mul_(1.0 + 0.1 * torch.randn_like(parameter))
    expected = text(decode(StatelessRunner(model), NoDraft()))
    ours, drafter = POLICIES[policy](), ModelDrafter(ModelRunner(draft), POLICIES[policy]())
    assert text(decode(ModelRunner(model), drafter)) == expected
    assert text(decode(ModelRunner(model), drafter)) == expected  # and once more, with what was learnt
    assert text(decode(StatelessRunner(model), ModelDrafter(StatelessRunner(draft), ours))) == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_a_round_costs_one_draft_pass_per_drafted_token(policy):
    model, draft = build("llama"), build("llama")
    for parameter in draft.parameters():
        parameter.mul_(1.0 + 0.1 * torch.randn_like(parameter))
    runner = ModelRunner(draft)
    for sampling in (GREEDY, Sampling(1.0)):
        drafter = ModelDrafter(runner, POLICIES[policy]())
        before = runner.forwards
        steps = decode(ModelRunner(model), drafter, sampling=sampling)
        assert runner.forwards - before == sum(step.drafted for step in steps) > 0


def test_lengths_vary_with_what_the_drafter_thinks():
    model, draft = build("llama"), build("llama", 1)
    for name in ("egag_calibrated", "confidence", "adaedl"):
        sampling = Sampling(1.0)
        steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(draft), POLICIES[name]()), sampling=sampling)
        assert len({step.drafted for step in steps[1:]}) > 1, name


# ---------------------------------------------------------------- a rule that says no more than a length
class TwoAlways(LengthRule):
    def length(self):
        return 2


def test_a_rule_needs_no_more_than_a_length():
    rule = TwoAlways()
    rule.start()
    rule.observe(2, 1)
    assert rule.proceeds is None and rule.entropy is None  # nothing is asked between two tokens
    model = build("llama")
    steps = decode(ModelRunner(model), ModelDrafter(ModelRunner(build("llama", 1)), rule), 20)
    assert text(steps) == text(decode(StatelessRunner(model), NoDraft(), 20)) and {step.drafted for step in steps[1:-2]} == {2}
    assert PromptLookupDrafter(rule).policy is rule
    with pytest.raises(NotImplementedError, match="LengthRule says no length"):
        LengthRule().length()


# ---------------------------------------------------------------- EGAG
def test_egag_is_the_published_map():
    policy = EGAG(1, 6, ema=0.0)
    assert policy.mapped(0.0, 128_256) == 6
    assert [policy.mapped(nats, 128_256) for nats in (0.01, 1.9, 2.0, 6.0, 11.7)] == [5, 5, 4, 2, 1]
    assert chosen(policy, UNIFORM) == 1 and policy.entropy == pytest.approx(log(8), abs=1e-6)
    assert EGAG(3, 6, ema=0.0).mapped(11.7, 128_256) == 3


def test_egag_averages_lengths_and_begins_anew_with_each_prompt():
    policy = EGAG(1, 8, ema=0.5)
    policy.start()
    assert chosen(policy, UNIFORM) == 1
    sure = [chosen(policy, SURE) for _ in range(3)]  # each asks for 7: 4, 5.5, 6.25
    assert sure == [4, 6, 6]
    policy.start()
    assert chosen(policy, SURE) == 7


def test_egag_reads_the_law_before_top_k_and_at_its_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0])
    for temperature, scaled in ((0.0, logits), (1.0, logits), (0.5, logits / 0.5)):
        policy = EGAG(1, 6)
        chosen(policy, logits, temperature)
        law = scaled.softmax(-1)
        assert policy.entropy == pytest.approx(-(law * law.log()).sum().item(), abs=1e-5)


def test_the_calibrated_map_spans_its_range_evenly():
    policy, generator = CalibratedEGAG(2, 5), torch.Generator().manual_seed(0)
    lengths = [policy.mapped(0.3 + 0.01 * torch.rand(1, generator=generator).item(), 50_000) for _ in range(2000)]
    assert [round(lengths.count(g) / 2000, 1) for g in (1, 2, 3, 4, 5, 6)] == pytest.approx([0, 0.25, 0.25, 0.25, 0.25, 0], abs=0.06)
    assert policy.mapped(0.0, 50_000) == 5 and policy.mapped(9.0, 50_000) == 2
    assert {CalibratedEGAG(1, 7).mapped(0.5, 10) for _ in range(9)} == {4}


# ---------------------------------------------------------------- heuristic, confidence, AdaEDL
def test_the_heuristic_is_transformers():
    policy = HeuristicLength(3)
    lengths = []
    for drafted, accepted in [(0, 0), (3, 3), (5, 4), (4, 0), (3, 0), (2, 0), (1, 0), (1, 0), (1, 1)]:
        policy.observe(drafted, accepted)
        lengths.append(policy.length())
    assert lengths == [3, 5, 4, 3, 2, 1, 1, 1, 3]
    policy.start()
    assert policy.length() == 3
    transient = TransientHeuristicLength(5)
    transient.observe(5, 5)
    assert transient.length() == 7
    transient.start()
    assert transient.length() == 5


def test_confidence_ends_behind_the_first_unlikely_token():
    policy = ConfidenceThreshold(0.29, 20)
    logits = logits_of(0.5, 0.3, 0.2)
    assert [bool(policy.proceeds(1, logits, torch.tensor(token), GREEDILY)) for token in range(3)] == [True, True, False]
    assert policy.proceeds(1, logits, TOKEN, GREEDILY).dtype == torch.bool
    sharp = ConfidenceThreshold(0.62, 20)
    assert not sharp.proceeds(1, logits, TOKEN, GREEDILY)
    assert sharp.proceeds(1, logits, TOKEN, Draws(Sampling(0.5)))  # 0.25 / 0.38


def test_adaedl_ends_where_the_bound_falls_below_the_threshold():
    policy = AdaEDL(threshold=0.4, entropy_factor=0.2)
    assert policy.bound(torch.tensor(1.8)).item() == pytest.approx(0.4)
    assert policy.proceeds(1, SURE, TOKEN, GREEDILY) and not policy.proceeds(1, UNIFORM, TOKEN, GREEDILY)
    assert policy.proceeds(1, UNIFORM, TOKEN, GREEDILY).dtype == torch.bool


def test_adaedl_steers_its_threshold_and_begins_anew():
    policy = AdaEDL(threshold=0.4, gamma_max=8, target_rate=0.9, step=0.1)
    policy.observe(4, 1)
    assert policy.threshold == pytest.approx(0.41)
    for _ in range(10):
        policy.observe(4, 4)
    assert policy.threshold < 0.40
    before = policy.threshold
    policy.observe(8, 8)
    assert policy.threshold == before
    policy.start()
    assert policy.threshold == 0.4


@pytest.mark.parametrize("wrong", [
    lambda: EGAG(0, 4), lambda: EGAG(5, 4), lambda: EGAG(1, 4, ema=1.0), lambda: CalibratedEGAG(window=0), lambda: HeuristicLength(0),
    lambda: ConfidenceThreshold(1.5), lambda: ConfidenceThreshold(gamma_max=0), lambda: AdaEDL(gamma_max=0), lambda: AdaEDL(entropy_factor=0.0),
])  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


# ---------------------------------------------------------------- beside the model drafter
def test_the_text_itself_has_no_logits_to_look_at():
    for name in ("egag", "confidence", "adaedl"):
        with pytest.raises(UserError, match="the drafter is no model"):
            PromptLookupDrafter(POLICIES[name]())
    for policy in (HeuristicLength(3), CostModel(4)):
        PromptLookupDrafter(policy)


def test_entropies_are_recorded_beside_the_rounds():
    model, draft, sampling = build("llama"), build("llama", 1), Sampling(1.0)
    records = {}
    for name, policy in (("egag", EGAG(2, 4)), ("fixed", FixedLength(3))):
        decoder = Decoder(ModelRunner(model), ModelDrafter(ModelRunner(draft), policy), RejectionVerifier())
        records[name] = generate(decoder, [5, 17, 33], 40, lambda ids, since: None, sampling, (0,)).record()
    assert records["fixed"].entropies is None
    entropies, rounds = records["egag"].entropies, records["egag"].rounds
    assert len(entropies) == len(rounds)
    assert all((entropy is not None and 0 < entropy < log(96)) for entropy, counts in zip(entropies, rounds, strict=True) if counts[0] > 1)


def test_an_idle_draft_is_not_even_prefilled():
    model, draft = build("llama"), ModelRunner(build("llama", 1))
    policy = CostModel(4)
    policy._script = []  # decided: off
    decode(ModelRunner(model), ModelDrafter(draft, policy), 5)
    assert draft.forwards == 0
