"""The law of what a round emits, enumerated exactly, against the target's own: total variation below 1e-12."""

import pytest
import torch
from laws import SAMPLINGS, deviation
from tabular import TabularRunner
from tiers import tiered

from specexp.decoding.draft import Draft
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier, SkipSampleAdjustment
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.model import ModelDrafter, NoDraft

DRAFTERS = {
    "nothing": lambda draft: NoDraft(),
    "chain1": lambda draft: ModelDrafter(draft, FixedLength(1)),
    "chain3": lambda draft: ModelDrafter(draft, FixedLength(3)),
    "tree2": lambda draft: DrawnTreeDrafter(draft, FixedShape([2])),
    "tree32": lambda draft: DrawnTreeDrafter(draft, FixedShape([3, 2])),
    "lookup": lambda draft: PromptLookupDrafter(FixedLength(3)),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("drafter", tiered(DRAFTERS, [name for name in DRAFTERS if name != "tree32"]))
def test_round_has_the_targets_law(drafter, sampling):
    assert deviation(RejectionVerifier, drafter, sampling, TabularRunner(1), TabularRunner(2)) < 1e-12


@pytest.mark.parametrize("drafter", ["chain3", "tree32"])
def test_law_holds_where_p_or_q_is_zero_or_equal(drafter):
    sampling = Sampling(1.0)
    for target, draft in [(TabularRunner(3, zeros=0.4), TabularRunner(4, zeros=0.4)), (TabularRunner(5), TabularRunner(5))]:
        assert deviation(RejectionVerifier, DRAFTERS[drafter], sampling, target, draft) < 1e-12


def test_tree_rule_on_a_chain_is_the_chain_rule():
    class TreeRule(RejectionVerifier):
        def chain(self, draft, p, draws):
            return self.tree(draft, p, draws)

    assert deviation(TreeRule, DRAFTERS["chain3"], Sampling(1.0), TabularRunner(1), TabularRunner(2)) < 1e-12


class GreedyBonus(RejectionVerifier):
    """Broken: the last token by argmax."""

    def residual(self, p, q):
        return torch.nn.functional.one_hot(super().residual(p, q).argmax(-1), p.shape[-1]).to(p)


class ReadsTheWrongColumn(RejectionVerifier):
    """Broken: q of the neighbour in the vocabulary, as if indexed by position."""

    def chain(self, draft, p, draws):
        return super().chain(Draft(draft.tokens, draft.parents, draft.distributions(p).roll(1, -1)), p, draws)


@pytest.mark.parametrize("broken", [SkipSampleAdjustment, GreedyBonus, ReadsTheWrongColumn])
def test_broken_verifiers_are_caught(broken):
    assert deviation(broken, DRAFTERS["chain3"], Sampling(1.0), TabularRunner(1), TabularRunner(2)) > 0.01


class ForgetsRefusedSiblings(RejectionVerifier):
    """Broken: every sibling is tried against the whole of p."""

    def residual(self, p, q):
        return p


class RepeatsTheDraw(RejectionVerifier):
    """Broken: after a refused point mass draws once more from p."""

    def point_masses(self, draft, logits, draws):
        verdict = super().point_masses(draft, logits, draws)
        return verdict if len(verdict.path) == len(draft) else Verdict(verdict.path, int(draws.draw(draws.law(logits[len(verdict.path)]))))


@pytest.mark.parametrize(("broken", "drafter"), [(ForgetsRefusedSiblings, "tree2"), (RepeatsTheDraw, "lookup")])
def test_broken_trees_and_point_masses_are_caught(broken, drafter):
    assert deviation(broken, DRAFTERS[drafter], Sampling(1.0), TabularRunner(1), TabularRunner(2)) > 0.01


def test_soft_q_for_a_greedy_draft_is_caught():
    class LyingDrafter(ModelDrafter):
        def propose(self, context, limit, draws):
            draft = self.runner.rollout(context, min(3, limit), draws.greedily())
            return Draft(draft.tokens, draft.parents, Sampling(1.0)(self.runner.logits(context, draft, len(draft) + 1)[:-1]))

    lying = lambda draft: LyingDrafter(draft, FixedLength(3))
    assert deviation(RejectionVerifier, lying, Sampling(1.0), TabularRunner(1), TabularRunner(2)) > 0.01


def test_draws_accept_and_draw_with_the_stated_probabilities():
    draws, n = Draws(seed=("law", 7)), 200_000
    accepted = draws.accept(torch.full((n,), 0.3), torch.full((n,), 0.5)).double().mean().item()
    assert abs(accepted - 0.6) < 0.006  # 5 standard deviations
    weights = torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0, 0.0])
    counts = torch.bincount(draws.draw(weights.expand(n, 6)), minlength=6).double() / n
    assert counts[weights == 0].sum() == 0
    assert (counts - weights.double() / 4).abs().max() < 0.006
    assert not draws.accept(torch.zeros(1000), torch.ones(1000)).any() and draws.accept(torch.ones(1000), torch.ones(1000)).all()


def test_same_seed_same_numbers_other_example_other_numbers():
    assert torch.equal(Draws(seed=(1, "a", 0)).uniform(5), Draws(seed=(1, "a", 0)).uniform(5))
    assert not torch.equal(Draws(seed=(1, "a", 0)).uniform(5), Draws(seed=(1, "b", 0)).uniform(5))


def test_a_law_is_one_at_any_temperature_that_is_taken():
    logits = torch.tensor([[1.0, 3.0, -2.0]])
    assert all(Sampling(temperature)(logits).tolist() == [[0.0, 1.0, 0.0]] for temperature in (1e-39, 1e-50, 5e-324))
    torch.testing.assert_close(Sampling(1e30)(logits), torch.full((1, 3), 1 / 3))
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is no temperature"):
            Sampling(temperature)
