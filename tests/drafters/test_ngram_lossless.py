"""Drafters without a model leave the text alone: the exact law on toy models over several rounds, and greedy text on real ones."""

import random
from types import SimpleNamespace

import pytest
from decodes import PROMPT, decode, never, text
from laws import SAMPLINGS, deviation
from tabular import TabularRunner, completed, law_of, total_variation
from tiers import tiered
from tiny_models import VOCAB, build

from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.protocols import Cut, LengthRule
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.copying import MaxGramDrafter
from specexp.drafters.katz import KatzDrafter, katz
from specexp.drafters.model import NoDraft
from specexp.drafters.nasd import BasicStorage, NasdDrafter, OneLevelStorage
from specexp.drafters.ngrams import BigramDrafter, NgramCounts, bigrams
from specexp.drafters.suffixes import EarliestMatch, LatestMatch
from specexp.runners.runner import ModelRunner, StatelessRunner

LENGTH = FixedLength(3)


def corpus(size, seed=0):
    rng, counts = random.Random(seed), NgramCounts(size)
    counts.read([[rng.randrange(size) for _ in range(40)] for _ in range(20)])
    return counts, SimpleNamespace(entries=size, rows=size)


def tabled(size):
    counts, vocabulary = corpus(size)
    chain, back_off = BigramDrafter(bigrams(counts, "t"), LENGTH, vocabulary), KatzDrafter(katz(counts, "t"), LENGTH, vocabulary)
    return {"bigram": chain, "katz": back_off, "max_gram+katz": MaxGramDrafter(LENGTH, LatestMatch(2), back_off)}


def drafters(size):
    return tabled(size) | {
        "earliest": MaxGramDrafter(LENGTH, EarliestMatch(), NoDraft()),
        "latest": MaxGramDrafter(LENGTH, LatestMatch(), NoDraft()),
        "nasd": NasdDrafter(BasicStorage(3), LENGTH),
        "onelevel": NasdDrafter(OneLevelStorage(3), LENGTH),
        "filled": NasdDrafter(BasicStorage(4), LENGTH, top_k_filler=3, stop_if_unknown=False),
        "kept": NasdDrafter(BasicStorage(4), LENGTH, top_k_filler=3, reset_in_between=False),
    }


NAMES = list(drafters(3))


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "kept"])  # every history must begin alike
def test_round_has_the_targets_law(name, sampling):
    drafter = lambda draft: drafters(3)[name]
    assert deviation(RejectionVerifier, drafter, sampling, TabularRunner(1), TabularRunner(2)) < 1e-12


@pytest.mark.parametrize("name", tiered(NAMES, ["nasd", "max_gram+katz"]))
def test_whole_texts_have_the_targets_law(name):
    """Several rounds, so that what was learnt and copied from drawn text counts too; every history from a fresh start."""
    sampling, target, prompt = Sampling(0.9), TabularRunner(5), [0, 1, 0]
    length = 3 if name == "filled" else 4  # random ids make many histories

    def run(draws):
        decoder = Decoder(target, drafters(3)[name], RejectionVerifier())
        return tuple(token for step in decoder.generate(prompt, length, never, draws) for token in step.tokens)

    assert total_variation(law_of(run, sampling), completed({(): 1.0}, target, sampling, prompt, length)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", tiered(["llama", "gpt2", "mistral_sliding"], ["llama"]))
def test_greedy_text_is_the_oracles(kind, name):
    model, drafter = build(kind), drafters(VOCAB)[name]
    for prompt in (PROMPT, [3], PROMPT * 6):
        full = text(decode(StatelessRunner(model), NoDraft(), 60, prompt))
        for first_target in (True, False):
            steps = decode(ModelRunner(model), drafter, 60, prompt, first_target=first_target)
            assert text(steps) == full and steps[-1].finish == "length"
        stop = lambda ids, since: Cut(8, "eos") if len(ids) > 7 else None
        assert text(decode(ModelRunner(model), drafter, 60, prompt, stop=stop)) == full[:8]
        assert text(decode(ModelRunner(model), drafter, 1, prompt)) == full[:1]


@pytest.mark.parametrize("match", [LatestMatch, EarliestMatch])
def test_repetition_is_copied_whole(match):
    """Greedy text of a table ends in a loop, the best case: all that is drafted is accepted."""
    decoder = Decoder(TabularRunner(1, vocab=5), MaxGramDrafter(FixedLength(8), match(), NoDraft()), RejectionVerifier())
    steps = list(decoder.generate([0, 1], 300, never, Draws()))
    assert [step.accepted for step in steps[-6:-1]] == [8] * 5


class Told(LengthRule):
    """Remembers what it was told."""

    def __init__(self):
        self.rounds = []

    def length(self):
        return 3

    def observe(self, drafted, accepted):
        self.rounds.append((drafted, accepted))


def test_max_gram_tells_its_policy_of_every_round_and_its_fallback_of_its_own():
    counts, vocabulary = corpus(VOCAB)
    own, fallback = Told(), Told()
    drafter = MaxGramDrafter(own, LatestMatch(2), BigramDrafter(bigrams(counts, "t"), fallback, vocabulary))
    steps = decode(ModelRunner(build("llama")), drafter)
    assert len(own.rounds) == len(steps)
    assert sum(drafted for drafted, _ in own.rounds + fallback.rounds) == sum(step.drafted for step in steps)
    assert any(drafted for drafted, _ in fallback.rounds)
