"""End to end, with the real random numbers: whole texts have the target's law, and the test would notice if they had not.

Declared power: 5,000 samples of 3-token texts over 3 ids, significance 1e-4. A total variation of 0.07, spread over all texts, is
found with probability above 0.95 (test below); the broken verifiers here deviate by more.
"""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from tabular import TabularRunner, completed

from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier, SkipSampleAdjustment
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.model import ModelDrafter

SAMPLES, LENGTH, ALPHA = 5000, 3, 1e-4
PROMPT = [0, 1, 2, 0, 1]
TARGET, DRAFT, SAMPLING = TabularRunner(1), TabularRunner(2), Sampling(1.0)
LAW = completed({(): 1.0}, TARGET, SAMPLING, PROMPT, LENGTH)
TEXTS = list(itertools.product(range(TARGET.vocab), repeat=LENGTH))


def p_value(counts):
    """Chi-square of the counts against the exact law, texts expected fewer than 5 times pooled."""
    expected = torch.tensor([LAW[text] for text in TEXTS]) * sum(counts)
    counts, rare = torch.tensor(counts), expected < 5
    observed = [*counts[~rare].tolist(), *([counts[rare].sum().item()] if rare.any() else [])]
    wanted = [*expected[~rare].tolist(), *([expected[rare].sum().item()] if rare.any() else [])]
    scale = sum(observed) / sum(wanted)
    return chisquare(observed, [value * scale for value in wanted]).pvalue


def sampled(drafter, verifier):
    decoder = Decoder(TARGET, drafter, verifier, first_target=False)
    counts = dict.fromkeys(TEXTS, 0)
    for sample in range(SAMPLES):
        steps = decoder.generate(PROMPT, LENGTH, lambda ids, since: None, Draws(SAMPLING, ("monte carlo", sample)))
        counts[tuple(token for step in steps for token in step.tokens)] += 1
    return list(counts.values())


DRAFTERS = {
    "chain": ModelDrafter(DRAFT, FixedLength(2)),
    "tree": DrawnTreeDrafter(DRAFT, FixedShape([2, 2])),
    "lookup": PromptLookupDrafter(FixedLength(2)),
}


@pytest.mark.parametrize("name", DRAFTERS)
def test_texts_have_the_targets_law(name):
    assert p_value(sampled(DRAFTERS[name], RejectionVerifier())) > ALPHA


class AlwaysAccepts(RejectionVerifier):
    def chain(self, draft, p, draws):
        return super().chain(Draft(draft.tokens, draft.parents, draft.distributions(p) * 1e-9), p, draws)


class ArgmaxAtTheEnd(RejectionVerifier):
    def residual(self, p, q):
        return torch.nn.functional.one_hot(super().residual(p, q).argmax(-1), p.shape[-1]).to(p)


class DropsUnlikelyTokens(ModelDrafter):
    """Discards a drawn token of low confidence, after the draw."""

    def propose(self, context, limit, draws):
        draft = super().propose(context, limit, draws)
        if not len(draft):
            return draft
        sure = [float(draft.q[i, t]) > 0.4 for i, t in enumerate(draft.ids)]
        kept = sure.index(False) if False in sure else len(sure)
        return Draft.chain(draft.tokens[:kept], draft.q[:kept])


@pytest.mark.parametrize(
    ("drafter", "verifier"),
    [
        (DRAFTERS["chain"], SkipSampleAdjustment()),
        (DRAFTERS["chain"], AlwaysAccepts()),
        (DRAFTERS["chain"], ArgmaxAtTheEnd()),
        (DropsUnlikelyTokens(DRAFT, FixedLength(2)), RejectionVerifier()),
    ],
    ids=["skip adjustment", "accepts all", "argmax", "drops after the draw"],
)
def test_the_test_has_teeth(drafter, verifier):
    assert p_value(sampled(drafter, verifier)) < ALPHA


def test_declared_power():
    """A total variation of 0.07, half of the texts made likelier and half less likely, is found in nearly every experiment of this size."""
    law = torch.tensor([LAW[text] for text in TEXTS], dtype=torch.float64)
    up = torch.arange(len(TEXTS)) % 2 == 0
    moved = torch.where(up, law * (1 + 0.07 / law[up].sum()), law * (1 - 0.07 / law[~up].sum()))
    assert abs(0.5 * (moved - law).abs().sum().item() - 0.07) < 1e-9
    generator, found = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        draws = torch.multinomial(moved, SAMPLES, replacement=True, generator=generator)
        found += p_value(torch.bincount(draws, minlength=len(TEXTS)).tolist()) < ALPHA
    assert found > 190
