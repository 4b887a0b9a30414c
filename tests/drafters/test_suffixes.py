"""Copying against a plain scan of the whole text, on random texts, with and without a fork's loose end."""

import random

import pytest

from specexp.decoding.context import Context
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Draws
from specexp.drafters.copying import MaxGramDrafter, PromptLookupDrafter, copied
from specexp.drafters.model import NoDraft
from specexp.drafters.suffixes import EarliestMatch, HashedMatch, LatestMatch
from specexp.errors import UserError


def scan(text, least, most, pick):
    """Index behind the picked earlier occurrence of the longest suffix of `least` to `most` ids."""
    for size in range(min(most, len(text) - 1), least - 1, -1):
        ends = [end for end in range(size, len(text)) if text[end - size : end] == text[-size:]]
        if ends:
            return pick(ends)
    return None


def texts(rng, count, length=60):
    """Random ids over small alphabets, repetitions, and blocks that come back."""
    for _ in range(count):
        letters = rng.randint(1, 4)
        text = [rng.randrange(letters) for _ in range(rng.randint(1, length))]
        if rng.random() < 0.5:
            block = text[: rng.randint(1, 9)]
            text = text + block * rng.randint(1, 5) + text[-3:]
        yield text


KINDS = [(EarliestMatch, min), (LatestMatch, max), (HashedMatch, max)]


@pytest.mark.parametrize(("kind", "pick"), KINDS)
def test_grown_id_by_id_every_match_is_the_scans(kind, pick):
    rng = random.Random(1)
    for text in texts(rng, 150):
        least, most = rng.randint(1, 3), rng.choice((3, 4, 7, 32))
        match = kind(least, most)
        for length in range(1, len(text) + 1):
            match.extend(text[length - 1 : length])
            assert match.find() == scan(text[:length], least, most, pick)


@pytest.mark.parametrize(("kind", "pick"), KINDS)
def test_loose_ends_are_matched_and_leave_no_trace(kind, pick):
    rng = random.Random(2)
    for text in texts(rng, 60):
        least, most = rng.randint(1, 3), rng.choice((3, 5, 32))
        match, settled = kind(least, most), 0
        while settled < len(text):
            step = rng.randint(1, 5)
            match.extend(text[settled : settled + step])
            settled = min(settled + step, len(text))
            for _ in range(4):
                loose = [rng.randrange(3) for _ in range(rng.randint(0, 9))]
                if rng.random() < 0.5:
                    loose = (loose[:2] + text[: rng.randint(0, 6)]) * rng.randint(1, 2)
                whole = text[:settled] + loose
                assert match.find(loose) == scan(whole, least, most, pick)


def test_copies_run_on_into_the_loose_end_and_into_themselves():
    assert copied([1, 2, 3], [4, 5], 1, 2) == [2, 3]
    assert copied([1, 2, 3], [4, 5], 1, 4) == [2, 3, 4, 5]
    assert copied([1, 2, 3], [4, 5], 2, 7) == [3, 4, 5, 3, 4, 5, 3]
    assert copied([1, 2, 3], [4, 5], 4, 3) == [5, 5, 5]


def drafters():
    lookup = PromptLookupDrafter(FixedLength(5), max_ngram=3, min_ngram=1)
    yield lookup, 3, max
    for kind, pick in KINDS[:2]:
        yield MaxGramDrafter(FixedLength(5), kind(1, 8), NoDraft()), 8, pick


def expected(text, most, pick, length=5):
    behind = scan(text, 1, most, pick)
    return () if behind is None else tuple(copied(text, [], behind, length))


@pytest.mark.parametrize(("drafter", "most", "pick"), list(drafters()))
@pytest.mark.parametrize("apart", [False, True])
def test_drafters_read_prompt_and_text_and_forks(drafter, most, pick, apart):
    """apart: as an encoder-decoder model has it, whose context does not begin with the prompt."""
    rng, draws = random.Random(3), Draws()
    for _ in range(12):
        prompt = [1, *(rng.randrange(4) for _ in range(rng.randint(3, 20)))]
        context, lead = Context([0] if apart else prompt), prompt if apart else []
        drafter.start(prompt, 100)
        for _ in range(12):
            assert drafter.propose(context, 0, draws).ids == ()
            assert drafter.propose(context, 9, draws).ids == expected(lead + context.ids, most, pick)
            assert drafter.propose(context, 2, draws).ids == expected(lead + context.ids, most, pick, 2)
            for _ in range(3):
                fork = context.fork()
                for _ in range(3):
                    fork.append([rng.randrange(4) for _ in range(rng.randint(0, 3))])
                    assert drafter.propose(fork, 9, draws).ids == expected(lead + fork.ids, most, pick)
            context.append([rng.randrange(4) for _ in range(rng.randint(1, 4))])


def test_a_new_text_forgets_the_old_one():
    drafter = MaxGramDrafter(FixedLength(3), LatestMatch(), NoDraft())
    drafter.start([1, 2, 3, 1], 10)
    assert drafter.propose(Context([1, 2, 3, 1]), 3, Draws()).ids == (2, 3, 1)
    drafter.start([9, 1], 10)
    assert drafter.propose(Context([9, 1]), 3, Draws()).ids == ()


@pytest.mark.parametrize("kind", [EarliestMatch, LatestMatch, HashedMatch])
@pytest.mark.parametrize(("least", "most"), [(0, 3), (4, 3)])
def test_bounds_that_make_no_sense_are_refused(kind, least, most):
    with pytest.raises(UserError, match=f"min_match={least} and max_match={most}"):
        kind(least, most)
