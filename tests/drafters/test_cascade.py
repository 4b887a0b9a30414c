"""Cascades: exact at the top for exact and for lenient levels below, greedy text untouched, each model at the K matrix's places."""


import pytest
import torch
from cascades import EXACT, LENIENT, csd, pair
from decodes import decode, text
from laws import PROMPT, SAMPLINGS, deviation
from tabular import TabularRunner
from tiny_models import build

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Drafter
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import LenientVerifier, RejectionVerifier
from specexp.drafters.csd import CascadeDrafter, KMatrix, RelayDrafter
from specexp.drafters.model import NoDraft
from specexp.errors import UserError
from specexp.runners.runner import ModelRunner, StatelessRunner


@pytest.mark.parametrize("reviewer", [LENIENT, EXACT], ids=["lenient", "exact"])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_three_levels_have_the_targets_law(sampling, reviewer):
    """The target reviews two models and copies; the bigger model reviews the smaller one and copies, which reviews copies."""
    runners = {"base": TabularRunner(2), "small": TabularRunner(3)}
    drafter = lambda _: csd(runners, [[1, 1, 1], [0, 1, 1], [0, 0, 1]], reviewer(), length=1)
    assert deviation(RejectionVerifier, drafter, sampling, TabularRunner(1), None, length=3) < 1e-12


class HandsUpTheWrongLaw(CascadeDrafter):
    """Broken: what a lenient level made is said to be a sample of its model."""

    def _laws(self, logits, tokens, draws):
        return draws.law(logits), None


def test_a_lenient_level_that_claims_a_law_is_caught():
    drafter = lambda _: HandsUpTheWrongLaw(Decoder(TabularRunner(2), csd({}, [[2]], None), LENIENT()))
    assert deviation(RejectionVerifier, drafter, Sampling(1.0), TabularRunner(1), None, length=3) > 0.01


def test_leniency_at_the_top_changes_the_law():
    lenient = lambda: LenientVerifier(2.0)
    drafter = lambda _: csd({"draft": TabularRunner(2)}, [[2, 1], [0, 1]], RejectionVerifier())
    assert deviation(lenient, drafter, Sampling(1.0), TabularRunner(1), None, length=3) > 0.01
    assert not LenientVerifier.lossless


@pytest.mark.parametrize("reviewer", [LENIENT, EXACT], ids=["lenient", "exact"])
@pytest.mark.parametrize("k_matrix", [[[3, 2, 3], [0, 2, 3], [0, 0, 3]], [[0, 0, 4], [0, 1, 1], [0, 0, 1]], [[1, 6, 0], [0, 2, 2], [0, 0, 0]]])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_greedy_text_is_the_targets(architecture, k_matrix, reviewer):
    models = [build(architecture, seed) for seed in (0, 1, 2)]
    runners = {"base": ModelRunner(models[1]), "small": ModelRunner(models[2])}
    drafter = csd(runners, k_matrix, reviewer(), length=3)
    expected = decode(StatelessRunner(models[0]), NoDraft())
    assert text(decode(ModelRunner(models[0]), drafter)) == text(expected)


def test_a_target_that_drafts_for_itself_through_a_cascade_is_always_right():
    model = build("llama", 0)
    drafter = csd({"same": ModelRunner(model)}, [[4, 0], [0, 2]], EXACT())
    steps = decode(ModelRunner(model), drafter)
    assert all(step.accepted == step.drafted >= 4 for step in steps[1:-2])


class Counter(Drafter):
    """Proposes `size` ids, counting up; remembers what it saw."""

    def __init__(self, size):
        self.size, self.seen = size, []

    def propose(self, context, limit, draws):
        self.seen.append(tuple(context.ids))
        return Draft.of_ids(range(100, 100 + min(self.size, limit)))


def test_a_relay_hands_over_by_position():
    first, second, context = Counter(2), Counter(3), Context([1, 2])
    draft = RelayDrafter({"first": first, "second": second}, [3, 2]).propose(context, 20, Draws())
    assert draft.ids == (100, 101, 100, 101, 100, 101, 102)  # 2 + 2 >= 3, then 3 >= 3 + 2
    assert draft.stages == ("first",) * 4 + ("second",) * 3
    assert first.seen == [(1, 2), (1, 2, 100, 101)] and second.seen == [(1, 2, 100, 101, 100, 101)]
    assert context.ids == [1, 2]
    limited = RelayDrafter({"first": first, "second": second}, [3, 2]).propose(context, 3, Draws())
    assert limited.stages == ("first",) * 3
    assert len(RelayDrafter({"none": Counter(0), "second": second}, [3, 2]).propose(context, 9, Draws())) == 6


def test_a_relay_joins_one_length_to_each_drafter_of_chains():
    with pytest.raises(ValueError, match=r"lengths=\[3\] does not fit 2 drafters \(first, second\)"):
        RelayDrafter({"first": Counter(2), "second": Counter(3)}, [3])
    trees = Counter(2)
    trees.needs_trees = True
    with pytest.raises(ValueError, match="second drafts trees"):
        RelayDrafter({"first": Counter(2), "second": trees}, [3, 2])


def test_stages_are_the_origins():
    model = build("llama", 0)
    drafter = csd({"same": ModelRunner(model)}, [[4, 2], [0, 2]], EXACT())
    origins = {origin for step in decode(ModelRunner(model), drafter) for origin in step.origins}
    assert "draft:same" in origins and origins <= {"target", "draft:same", "draft:max_gram", "bonus", "resample"}


def test_a_model_at_several_levels_is_one_model():
    runners = {"base": ModelRunner(build("llama", 1)), "small": ModelRunner(build("llama", 2))}
    drafter = csd(runners, [[3, 2, 3], [0, 2, 3], [0, 0, 3]], LENIENT())
    decode(ModelRunner(build("llama", 0)), drafter)
    assert drafter.models == runners and all(runner.forwards for runner in runners.values())


@pytest.mark.parametrize("rows", [[[5]], [[5, 10], [0]], [[5, -1], [0, 10]], [[0, 0], [0, 10]], [[2.5, 1], [0, 1]], [5, 10], []])
def test_a_matrix_that_does_not_fit_is_refused(rows):
    with pytest.raises((ValueError, UserError), match="k_matrix="):
        KMatrix(rows, pair("draft"))


def literal_review(p, q, ids, leniency):
    """The rule as the paper's code means it, one token after another."""
    kept = []
    for row, before, x in zip(p, q, ids, strict=False):
        if int(row.argmax()) != x and not (leniency > 1 and row[x] > before / leniency):
            break
        kept.append(x)
    return kept, int(p[len(kept)].argmax())


@pytest.mark.parametrize("leniency", [1.0, 1.5, 3.0])
def test_leniency_is_the_literal_rule(leniency):
    generator = torch.Generator().manual_seed(0)
    for trial in range(200):
        logits = 2 * torch.randn(5, 6, generator=generator)
        ids = torch.randint(6, (4,), generator=generator)
        confidence = torch.rand(4, generator=generator) if trial % 2 else None
        verdict = LenientVerifier(leniency)(Draft.chain(ids, confidence=confidence), logits, Draws())
        kept, token = literal_review(logits.softmax(-1), torch.ones(4) if confidence is None else confidence, ids.tolist(), leniency)
        assert (list(verdict.path), verdict.token) == (list(range(len(kept))), token)


def test_leniency_lets_likely_tokens_through_that_are_not_the_best():
    logits = torch.tensor([[0.40, 0.35, 0.25], [0.9, 0.05, 0.05]]).log()
    draft = Draft.of_ids([1])
    kept = [len(LenientVerifier(leniency)(draft, logits, Draws()).path) for leniency in (1.0, 2.0, 4.0)]
    assert kept == [0, 0, 1]


def test_leniency_below_one_is_refused():
    with pytest.raises(ValueError, match=r"leniency=0\.5"):
        LenientVerifier(0.5)


def test_a_fork_copies_its_trunk_and_leaves_it_alone():
    trunk = Context(PROMPT)
    fork = trunk.fork()
    fork.append([2, 2])
    trunk.append([1])
    assert fork.ids == [*PROMPT, 2, 2] == fork.tokens.tolist()
    assert trunk.tokens.tolist() == [*PROMPT, 1] and fork.permanent == len(PROMPT) and fork.lineage is trunk.lineage
    deeper = fork.fork()
    deeper.append(range(100))
    assert deeper.permanent == len(PROMPT) and deeper.tokens.tolist() == deeper.ids and fork.ids[-1] == 2
