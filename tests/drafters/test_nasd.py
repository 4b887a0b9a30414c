"""NASD against a literal reading of the algorithm, token for token; its storages; and what a prompt leaves to the next."""

import random

import pytest
import torch
from tabular import TabularRunner

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import empty_draft
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import GREEDY, Draws
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.nasd import BasicStorage, NasdDrafter, OneLevelStorage
from specexp.errors import UserError

EXACT = RejectionVerifier()


class Oracle:
    """The algorithm as published, slowly: dicts of dicts by context length, everything recomputed from whole prefixes."""

    def __init__(self, sizes, gamma, filler):
        self.tables, self.cached, self.gamma, self.filler = {j: {} for j in sizes}, {}, gamma, filler

    def update(self, prefix, token):
        for j, table in self.tables.items():
            if len(prefix) < j:
                continue
            key = tuple(prefix[len(prefix) - j :])
            counts = table.setdefault(key, {})
            counts[token] = counts.get(token, 0) + 1
            if (j, key) not in self.cached or counts[token] > counts[self.cached[j, key]]:
                self.cached[j, key] = token

    def next_token(self, prefix):
        for j in sorted(self.tables, reverse=True):
            if len(prefix) >= j and (j, tuple(prefix[len(prefix) - j :])) in self.cached:
                return self.cached[j, tuple(prefix[len(prefix) - j :])]
        return None

    def initialise(self, prompt):
        for i in range(1, len(prompt)):
            self.update(prompt[:i], prompt[i])

    def round(self, text, limit, logits_of):
        draft = []
        while len(draft) < min(self.gamma, limit) and (token := self.next_token(text + draft)) is not None:
            draft.append(token)
        emitted = []
        while True:
            best = int(logits_of(text + emitted).argmax())
            emitted.append(best)
            if len(emitted) > len(draft) or draft[len(emitted) - 1] != best:
                break
        for i, token in enumerate(emitted):
            self.update(text + emitted[:i], token)
            if self.filler > 1:
                for other in logits_of(text + emitted[:i]).topk(self.filler).indices.tolist():
                    self.update(text + emitted[:i], other)
        return draft, emitted


class Recorded(NasdDrafter):
    def propose(self, context, limit, draws):
        draft = super().propose(context, limit, draws)
        self.seen.append(draft.ids)
        return draft


def decoded(decoder, prompt, tokens=60):
    return [step.tokens for step in decoder.generate(prompt, tokens, lambda ids, since: None, Draws())]


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("filler", [1, 3])
@pytest.mark.parametrize("storage", [BasicStorage, OneLevelStorage])
def test_drafts_and_counts_are_the_algorithms(storage, filler, order):
    rng = random.Random(order)
    for seed in range(6):
        target = TabularRunner(seed, vocab=5)
        drafter = Recorded(storage(order), FixedLength(4), top_k_filler=filler)
        decoder = Decoder(target, drafter, EXACT)
        for _ in range(3):  # the counts begin anew with each prompt
            prompt = [rng.randrange(5) for _ in range(rng.randint(1, 15))]
            oracle = Oracle(drafter.storage.sizes, 4, filler)
            oracle.initialise(prompt)
            drafter.seen, text = [], list(prompt)
            rounds = decoded(decoder, prompt)
            for number, tokens in enumerate(rounds):
                draft, emitted = oracle.round(text, 59 - (len(text) - len(prompt)) if number else 0, target.at)
                assert drafter.seen[number] == tuple(draft) and tokens == tuple(emitted)
                text += emitted


def test_counts_outlive_a_prompt_when_asked_to_and_the_text_stays():
    target, prompts = TabularRunner(2, vocab=6), [[0, 1, 2], [3, 1, 4, 1], [0, 1, 2]]
    kept = Recorded(BasicStorage(3), FixedLength(4), reset_in_between=False)
    fresh = Recorded(BasicStorage(3), FixedLength(4))
    drafted = {}
    for name, drafter in (("kept", kept), ("fresh", fresh)):
        drafter.seen, decoder = [], Decoder(target, drafter, EXACT)
        drafted[name] = [[token for tokens in decoded(decoder, prompt, 12) for token in tokens] for prompt in prompts], drafter.seen
    assert drafted["kept"][0] == drafted["fresh"][0]
    assert sum(map(len, drafted["kept"][1])) > sum(map(len, drafted["fresh"][1]))


def test_ties_keep_the_first_and_longer_contexts_answer_first():
    storage = BasicStorage(3)
    for token in (7, 8, 8, 7):
        storage.count([1, 2], token)
    assert storage.likeliest([1, 2]) == 8  # 8 was the first to be counted twice
    storage.count([5, 2], 9)
    assert storage.likeliest([5, 2]) == 9 and storage.likeliest([6, 2]) == 8
    assert storage.likeliest([6]) is None and storage.likeliest([]) is None
    single = OneLevelStorage(3)
    single.count([1, 2], 3)
    assert single.likeliest([1, 2]) == 3 and single.likeliest([2]) is None and single.likeliest([4, 2]) is None


@pytest.mark.parametrize("storage", [BasicStorage(2), OneLevelStorage(2), BasicStorage(4)])
def test_bigram_contexts_are_counted(storage):
    """The original's ranges stop at two ids: order 2 stored nothing."""
    drafter = NasdDrafter(storage, FixedLength(3))
    drafter.start([4, 5, 6, 5], 9)
    assert drafter.propose(Context([4, 5, 6, 5]), 5, Draws()).ids == (6, 5, 6)


def test_unknown_ends_the_draft_or_is_drawn_from_all_ids():
    logits = torch.zeros(1, 4)
    for stop, lengths in ((True, {0}), (False, {3})):
        drafter = NasdDrafter(BasicStorage(2), FixedLength(3), stop_if_unknown=stop)
        seen, found = set(), set()
        for seed in range(20):
            drafter.start([2], 9)
            context = Context([2])
            drafter.propose(context, 0, Draws(GREEDY, (seed,)))
            drafter.observe(empty_draft(), Verdict((), 3), logits)
            context.append([3])
            draft = drafter.propose(context, 5, Draws(GREEDY, (seed,)))
            seen.add(len(draft))
            found |= set(draft.ids)
        assert seen == lengths and (found == {0, 1, 2, 3} if not stop else not found)


def test_forks_are_looked_up_and_not_counted():
    drafter, draws, context = NasdDrafter(BasicStorage(2), FixedLength(2)), Draws(), Context([1, 2, 3, 1])
    drafter.start([1, 2, 3, 1], 20)
    assert drafter.propose(context, 4, draws).ids == (2, 3)
    for _ in range(3):
        fork = context.fork()
        fork.append([3, 9])
        draft = drafter.propose(fork, 4, draws)
        assert draft.ids == ()
        drafter.observe(draft, Verdict((), 5), torch.zeros(1, 10))
    context.append([3, 5])
    assert drafter.propose(context, 4, draws).ids == ()  # 5 has no follower; 9 and its verdict left no trace
    context.append([3])
    assert drafter.propose(context, 4, draws).ids == (1, 2)  # 3 -> 1 came first, 3 -> 5 as often; ties keep the first
    context.append([5, 3])
    assert drafter.propose(context, 4, draws).ids == (5, 3)


def test_an_apart_prompt_is_counted_and_not_joined_to_the_text():
    drafter = NasdDrafter(BasicStorage(2), FixedLength(2))
    drafter.start([4, 5, 6], 20)
    context = Context([0])
    assert drafter.propose(context, 4, Draws()).ids == ()  # 6 -> 0 was never read
    context.append([4])
    assert drafter.propose(context, 4, Draws()).ids == (5, 6)
    assert drafter.storage.likeliest([6]) is None and drafter.storage.likeliest([0]) == 4


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="order=1"):
        BasicStorage(1)
    with pytest.raises(UserError, match="top_k_filler=0"):
        NasdDrafter(BasicStorage(2), FixedLength(2), top_k_filler=0)
