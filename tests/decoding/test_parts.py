"""What parts are when nobody overrides them, and draws that turn greedy between the models of a cascade."""

import pytest
import torch
from cascades import csd
from decodes import never
from tabular import Replay, TabularRunner, completed, law_of, total_variation

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.protocols import Drafter, Verdict
from specexp.decoding.sampling import GREEDY, Draws, Sampling
from specexp.decoding.verifiers import AnotherModels, LenientArgmax, LenientVerifier, RejectionVerifier
from specexp.drafters.csd import CascadeDrafter
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.methods import draft_alone

SOFT = Sampling(1.0)


# Draws


def test_greedy_draws_go_on_with_the_same_randomness():
    draws, same = Draws(SOFT, (3,)), Draws(SOFT, (3,))
    greedy = draws.greedily()
    assert greedy.is_greedy and greedy.sampling == GREEDY and not draws.is_greedy and draws.sampling == SOFT
    assert greedy.greedily() is greedy and Draws().greedily().is_greedy
    numbers = [draws.uniform(2), greedy.uniform(2), draws.uniform(2)]  # one stream, whichever is asked
    assert torch.equal(torch.cat(numbers), same.uniform(6))


def test_draws_follow_their_sampling_rule():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    soft, greedy = Draws(Sampling(0.5, top_k=2), (1,)), Draws()
    assert torch.equal(soft.law(logits), Sampling(0.5, top_k=2)(logits)) and greedy.law(logits).tolist() == [[1, 0, 0], [0, 1, 0]]
    tokens, law = greedy.token(logits)
    assert tokens.tolist() == [0, 1] and law is None
    tokens, law = soft.token(logits)
    assert torch.equal(law, soft.law(logits)) and bool((law.gather(1, tokens[:, None]) > 0).all())
    assert torch.equal(Draws(seed=(1, "a")).uniform(4), Draws(SOFT, (1, "a")).uniform(4))  # the rule is no part of the seed


def test_replayed_draws_have_one_history_with_their_greedy_ones():
    """So that the enumeration of a cascade misses no outcome."""
    weights = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    law = law_of(lambda draws: (int(draws.greedily().draw(weights)), int(draws.draw(weights))), SOFT)
    assert law == {(a, b): p * q for a, p in enumerate((0.25, 0.75)) for b, q in enumerate((0.25, 0.75))}
    replay = Replay(SOFT, [1])
    replay.greedily().draw(weights)
    assert replay.weight == 0.75


# Drafters


def test_a_drafter_that_overrides_nothing_proposes_learns_and_asks_nothing():
    drafter, context = Drafter(), Context([0, 1])
    drafter.check(SOFT)
    drafter.prepare(context.ids, 9)
    drafter.start(context.ids, 9)
    assert not drafter.needs_trees and dict(drafter.models) == {}
    assert len(drafter.propose(context, 5, Draws(SOFT))) == 0
    drafter.observe(empty_draft(), Verdict((), 0), torch.zeros(1, 3))
    with pytest.raises(TypeError):
        drafter.models["draft"] = TabularRunner(0)  # shared by all drafters
    target = TabularRunner(1)
    law = law_of(lambda draws: tuple(t for step in Decoder(target, drafter, RejectionVerifier()).generate([0, 1], 3, never, draws) for t in step.tokens), SOFT)
    assert total_variation(law, completed({(): 1.0}, target, SOFT, [0, 1], 3)) < 1e-12


# Verifiers


@pytest.mark.parametrize("tree", [False, True])
def test_lenient_argmax_is_the_lenient_rule_greedily_whatever_the_sampling(tree):
    generator, differ = torch.Generator().manual_seed(0), 0
    greedy, lenient = LenientArgmax(2.5), LenientVerifier(2.5)
    for trial in range(100):
        logits, ids = 2 * torch.randn(5, 4, generator=generator), torch.randint(4, (4,), generator=generator)
        draft = Draft(ids, (ROOT, ROOT, 0, 1)) if tree else Draft.chain(ids, confidence=torch.rand(4, generator=generator))
        verdict = greedy(draft, logits, Draws(SOFT, (trial,)))
        assert verdict == greedy(draft, logits, Draws(SOFT, (trial, "other"))) == lenient(draft, logits, Draws())
        differ += verdict != lenient(draft, logits, Draws(SOFT, (trial,)))
    assert differ > 10 and not LenientArgmax.lossless
    assert LenientArgmax().leniency == 3.0


def test_under_sampling_a_lenient_level_hands_up_point_masses_and_an_exact_one_its_law():
    """The tokens of a lenient level are a sample of no law that is known; those of a greedy generation are point masses anyway."""
    runner, context, draws = TabularRunner(2), Context([0, 1, 2, 0, 1]), Draws(SOFT, (5,))
    drafted = {}
    for verifier in (LenientArgmax(2.0), LenientVerifier(2.0), RejectionVerifier()):
        level = CascadeDrafter(Decoder(runner, ModelDrafter(TabularRunner(3), FixedLength(2)), verifier))
        drafted[type(verifier)] = level.propose(context, 4, draws)
        assert level.propose(context, 4, Draws()).q is None
    for lenient in (LenientArgmax, LenientVerifier):
        assert drafted[lenient].q is None and drafted[lenient].confidence.shape == (len(drafted[lenient]),)
    exact = drafted[RejectionVerifier]
    texts = [[*context.ids, *exact.ids[:place]] for place in range(len(exact))]
    assert torch.equal(exact.q, torch.stack([SOFT(runner.at(ids)) for ids in texts])) and exact.confidence is None


def test_what_a_lenient_argmax_level_hands_up_depends_on_no_draw_of_its_own():
    level = csd({"draft": TabularRunner(2)}, [[3, 0], [0, 2]], LenientArgmax(2.0))
    law = law_of(lambda draws: level.propose(Context([0, 1, 2, 0, 1]), 3, draws).ids, SOFT)
    assert len(law) == 1  # copies are reviewed, and nothing is drawn


def test_the_draft_alone_has_its_own_law_and_says_that_it_is_not_the_targets():
    draft, target = TabularRunner(2), TabularRunner(1)
    decoder = draft_alone(draft)
    assert not decoder.lossless and not AnotherModels.lossless and RejectionVerifier.lossless
    assert isinstance(decoder.drafter, NoDraft) and decoder.target is draft
    law = law_of(lambda draws: tuple(t for step in decoder.generate([0, 1], 3, never, draws) for t in step.tokens), SOFT)
    assert total_variation(law, completed({(): 1.0}, draft, SOFT, [0, 1], 3)) < 1e-12
    assert total_variation(law, completed({(): 1.0}, target, SOFT, [0, 1], 3)) > 0.01
