"""Token trees: shapes, growth and staged growth give what they promise, and the target's own text and law whatever they give."""

import itertools
import json
import random

import pytest
import torch
from decodes import GREEDY, PROMPT, decode, text
from hypothesis import given, settings
from hypothesis import strategies as st
from sides import record, side
from tabular import TabularRunner, completed, law_of, total_variation
from tiny_models import VOCAB, build

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Cut, Verdict
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape, Shape, breadth_first
from specexp.drafters.grown_trees import Adaptive, BestFirst, GrownTreeDrafter, Threshold
from specexp.drafters.katz import katz
from specexp.drafters.model import NoDraft
from specexp.drafters.ngrams import NgramCounts
from specexp.drafters.sequoia import RankRates, SequoiaShape, best_shape
from specexp.drafters.staged import StagedTreeDrafter
from specexp.figures.acceptance import acceptance_figures
from specexp.report.__main__ import main as report
from specexp.runners.runner import ModelRunner, StatelessRunner

SAMPLINGS = {
    "greedy": GREEDY,
    "multinomial": Sampling(1.0),
    "warm": Sampling(0.7),
    "topk": Sampling(1.0, top_k=2),
    "nucleus": Sampling(1.3, top_p=0.8),
    "topknucleus": Sampling(1.0, top_k=2, top_p=0.7),
}
GROWTHS = {
    "best_first": lambda: BestFirst(2, 3),
    "threshold": lambda: Threshold(2, 3, 0.3),
    "adaptive": lambda: Adaptive(high=0.6, low=0.45, base_depth=2, max_depth=3),
}


class Words:
    """A vocabulary as tables are checked against it."""

    def __init__(self, size):
        self.entries = self.rows = size


def trigram(size, seed=0, tokens=400):
    rng = random.Random(seed)
    counts = NgramCounts(size)
    counts.read([[min(int(rng.expovariate(0.5)), size - 1) for _ in range(tokens)]])
    return katz(counts, "toy")


def drafter(kind, runner, **options):
    """A tree drafter of each kind, on a draft of any vocabulary."""
    if kind in GROWTHS:
        return GrownTreeDrafter(runner, GROWTHS[kind](), options.get("max_nodes", 5))
    if kind == "staged":
        size = getattr(runner, "vocab", VOCAB)
        return StagedTreeDrafter(runner, BestFirst(2, 3), options.get("max_nodes", 5), trigram(size), Words(size), guesses=3)
    shapes = {"fixed": FixedShape([2, 2]), "narrow": FixedShape(2, depth=3, max_nodes=4), "sequoia": SequoiaShape(4, 3, 2)}
    return DrawnTreeDrafter(runner, shapes[kind])


KINDS = [*GROWTHS, "staged", "fixed", "narrow", "sequoia"]


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_round_has_the_targets_law(kind, sampling):
    target, length = TabularRunner(1), 4
    decoder = Decoder(target, drafter(kind, TabularRunner(2)), RejectionVerifier(), first_target=False)
    prompt, drafted = [0, 1, 2, 0, 1], []

    def one_round(draws):
        decoder.drafter.start(prompt, 0)
        found = decoder.round(Context(prompt), length, draws)
        drafted.append(found.draft)
        return found.tokens

    emitted = completed(law_of(one_round, sampling), target, sampling, prompt, length)
    assert total_variation(emitted, completed({(): 1.0}, target, sampling, prompt, length)) < 1e-12
    assert any(not draft.is_chain for draft in drafted) or kind == "adaptive"  # of which another test sees to it


@pytest.mark.parametrize("seed", range(3))
def test_an_adaptive_tree_that_branches_has_the_targets_law(seed):
    sampling, target, prompt = Sampling(1.0), TabularRunner(10 + seed), [0, 1, 2, 0, 1]
    growth = Adaptive(high=1.0, low=1.0, max_branching=2, base_depth=2, max_depth=2, stop=0.0, threshold=0.0)
    decoder = Decoder(target, GrownTreeDrafter(TabularRunner(20 + seed), growth, 6), RejectionVerifier(), first_target=False)
    assert decoder.drafter.propose(Context(prompt), 3, Draws(sampling)).parents == (ROOT, ROOT, 0, 0, 1, 1)

    def one_round(draws):
        decoder.drafter.start(prompt, 0)  # what a round teaches would change the next tree
        return decoder.round(Context(prompt), 4, draws).tokens

    emitted = completed(law_of(one_round, sampling), target, sampling, prompt, 4)
    assert total_variation(emitted, completed({(): 1.0}, target, sampling, prompt, 4)) < 1e-12


@pytest.mark.slow
def test_what_a_round_teaches_an_adaptive_tree_does_not_change_the_law():
    """All of a text, whose later trees depend on what became of the earlier ones."""
    sampling, target, prompt, shapes = Sampling(1.0), TabularRunner(31), [0, 1, 2], set()
    growth = Adaptive(high=0.7, low=0.5, base_depth=2, max_depth=3, stop=0.0, threshold=0.0, window=1, depth_rate=2.0, high_rate=0.3)
    decoder = Decoder(target, GrownTreeDrafter(TabularRunner(32), growth, 4), RejectionVerifier())

    def text_of(draws):
        steps = list(decoder.generate(prompt, 4, lambda ids, since: None, draws))
        shapes.add(tuple(step.parents for step in steps))
        return text(steps)

    emitted = completed(law_of(lambda draws: tuple(text_of(draws)), sampling), target, sampling, prompt, 4)
    assert total_variation(emitted, completed({(): 1.0}, target, sampling, prompt, 4)) < 1e-12
    assert len(shapes) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_ends_are_kept_inside_accepted_paths_and_paddings_do_not_matter(kind):
    model = build("llama")
    full = text(decode(ModelRunner(model), NoDraft(), 40))
    for tokens in (1, 2, 3, 7):
        for first_target in (True, False):
            steps = decode(ModelRunner(model), drafter(kind, ModelRunner(model)), tokens, first_target=first_target)
            assert text(steps) == full[:tokens] and steps[-1].finish == "length"
    for position in (0, 1, 2, 5):
        def stop(ids, since, position=position):
            return Cut(position + 1, "eos") if len(ids) > position else None

        steps = decode(ModelRunner(model), drafter(kind, ModelRunner(model)), 40, stop=stop)
        assert text(steps) == full[: position + 1] and steps[-1].finish == "eos"
    for width in (VOCAB - 16, VOCAB + 16):
        other = build("llama", 1, vocab_size=width)
        assert text(decode(ModelRunner(model), drafter(kind, ModelRunner(other, VOCAB)), 24)) == full[:24]
        drawn = decode(ModelRunner(model), drafter(kind, ModelRunner(other, VOCAB)), 24, sampling=Sampling(1.0))
        assert max(text(drawn)) < VOCAB


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_the_oracles_and_the_target_itself_drafts_a_full_path(kind):
    model, other = build("llama", 0), build("llama", 1)
    expected = text(decode(StatelessRunner(model), NoDraft(), 60))
    assert text(decode(ModelRunner(model), drafter(kind, ModelRunner(other)), 60)) == expected
    steps = decode(ModelRunner(model), drafter(kind, ModelRunner(model)), 60)
    assert text(steps) == expected and any(not step.is_chain for step in steps)
    assert all(step.accepted and step.origins[-1] == "bonus" for step in steps[1:-1])  # the path goes down to a leaf
    assert acceptance_figures([side(rounds=[step.counts for step in steps[1:-1]])])["alpha"] == 1.0
    if kind in ("fixed", "sequoia"):
        assert all(step.accepted == step.counts[2] for step in steps[1:-1])


@pytest.mark.parametrize("branching", [[1, 1, 1], [2, 2, 2], [3, 1, 1], [4, 3, 2, 1], [2] * 5])
def test_every_shape_of_the_target_itself_accepts_its_depth(branching):
    model = build("llama")
    steps = decode(ModelRunner(model), DrawnTreeDrafter(ModelRunner(model), FixedShape(branching)), 60)
    assert text(steps) == text(decode(StatelessRunner(model), NoDraft(), 60))
    assert {step.accepted for step in steps[1:-1]} == {len(branching)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 12), min_size=1, max_size=12), st.integers(0, 2**16), st.integers(0, 4))
def test_random_trees_score_as_a_stateless_forward(parents, seed, lag):
    parents = tuple(min(parent, node - 1) for node, parent in enumerate(parents))
    rng = random.Random(seed)
    model = build("llama")
    cached, oracle = ModelRunner(model), StatelessRunner(model)
    draft = Draft.of_nodes([rng.randrange(VOCAB) for _ in parents], parents)
    context = Context(PROMPT)
    cached.start(PROMPT, 40)
    cached.logits(Context(PROMPT[: len(PROMPT) - lag]), Draft.of_ids(()), 1)
    for _ in range(2):
        got = cached.logits(context, draft, len(draft) + 1)
        assert torch.allclose(got, oracle.logits(context, draft, len(draft) + 1), atol=2e-5)
        context.append([draft.ids[node] for node in draft.path(rng.randrange(len(draft)))])  # any path is kept, or a part of one
        context.append([rng.randrange(VOCAB)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 24), st.integers(1, 5), st.integers(0, 6))
def test_a_staged_tree_is_the_drafts_own_with_fewer_passes(seed, max_nodes, depth, guesses):
    rng = random.Random(seed)
    runners = [TabularRunner(seed, vocab=6, scale=3.0) for _ in range(2)]
    plain = GrownTreeDrafter(runners[0], BestFirst(3, depth), max_nodes)
    staged = StagedTreeDrafter(runners[1], BestFirst(3, depth), max_nodes, trigram(6, seed), Words(6), guesses)
    for _ in range(3):
        context = Context([rng.randrange(6) for _ in range(5)])
        one, other = (drafter.propose(context, depth, Draws(Sampling(1.0))) for drafter in (plain, staged))
        assert sorted(one.path(n) and tuple(one.ids[i] for i in one.path(n)) for n in range(len(one))) == sorted(
            tuple(other.ids[i] for i in other.path(n)) for n in range(len(other))
        )
    assert runners[1].forwards <= runners[0].forwards


def test_guesses_that_come_true_spare_passes():
    class Certain(TabularRunner):
        def at(self, ids):
            return torch.full((self.vocab,), -20.0, dtype=torch.float64).scatter(0, torch.tensor((ids[-1] + 1) % self.vocab), 0.0)

    counts = NgramCounts(6)
    counts.read([[i % 6 for i in range(200)]])
    runner = Certain(0, vocab=6)
    staged = StagedTreeDrafter(runner, BestFirst(1, 6), 6, katz(counts, "toy"), Words(6), guesses=6, guess_branching=1)
    draft = staged.propose(Context([0, 1, 2]), 6, Draws())
    assert draft.ids == (3, 4, 5, 0, 1, 2) and runner.forwards == 1


def test_a_rounds_tree_is_drawn_from_the_records(tmp_path, capsys):
    tree = {"nodes": [5, 6, 7], "parents": [-1, -1, 0], "path": [0, 2], "own": [9], "texts": {"nodes": ["a", "b", "c"], "own": ["d"]}}
    rows = [record("chain", side()).to_json(), record("first", side(tree=tree)).to_json()]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(["tree", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "first: 3 nodes, 2 accepted"
    assert [line.strip("│├└─ ") for line in lines[1:]] == ["'a' *", "'c' *", "'d' the target's own", "'b'"]
    (tmp_path / "chains").mkdir()
    (tmp_path / "chains" / "records.jsonl").write_text(json.dumps(rows[0]) + "\n")
    refused = {"no tree of chain": [tmp_path, "--example", "chain"], "no records.jsonl": [tmp_path / "none"], "holds no token tree": [tmp_path / "chains"]}
    for words, arguments in refused.items():
        with pytest.raises(SystemExit, match=words):
            report(["tree", *map(str, arguments)])


def paths(shape):
    """Every node as its ranks from the root."""
    found, stack = set(), [(0, ())]
    while stack:
        node, ranks = stack.pop()
        for rank, child in enumerate(shape.children[node]):
            found.add((*ranks, rank))
            stack.append((child, (*ranks, rank)))
    return found


def test_breadth_first_fills_levels_from_the_best():
    assert paths(breadth_first([2, 2])) == {(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)}
    assert paths(breadth_first([2, 2], 3)) == {(0,), (1,), (0, 0)}
    assert FixedShape(3, depth=2).shape() == FixedShape([3, 3]).shape()
    assert FixedShape([3, 3]).shape().cut(1) == FixedShape([3]).shape()


@pytest.mark.parametrize("options", [dict(branching=[]), dict(branching=2), dict(branching=[2, 0]), dict(branching=[2], depth=2), dict(branching=[2], max_nodes=0), dict(branching=["a"]), dict(branching=[2.5]), dict(branching=[65])])
def test_what_is_no_tree_is_refused(options):
    with pytest.raises(ValueError, match="is no tree|leaves no node"):
        FixedShape(**options)


NO_TREES = {
    "max_nodes=0 leaves no node": lambda: GrownTreeDrafter(TabularRunner(0), BestFirst(2, 3), 0),
    "depth=0 makes no tree": lambda: BestFirst(2, 0),
    "threshold=1.5 is no probability": lambda: Threshold(2, 3, 1.5),
    "do not ascend": lambda: Adaptive(min_branching=3, mid_branching=2),
    "must not exceed high=0.4": lambda: Adaptive(low=0.5, high=0.4),
    "base_depth=9 must not exceed": lambda: Adaptive(base_depth=9, max_depth=8),
    "max_nodes=4, max_depth=0, max_branching=8 make no tree": lambda: SequoiaShape(4, max_depth=0),
    r"acceptance=\[0.6, 0.5\] are no rates": lambda: SequoiaShape(4, acceptance=[0.6, 0.5]),
    "guesses=-1 with guess_branching=2 do not fit": lambda: StagedTreeDrafter(TabularRunner(0), BestFirst(2, 3), 5, trigram(3), Words(3), guesses=-1),
}


@pytest.mark.parametrize(("words", "made"), NO_TREES.items(), ids=NO_TREES)
def test_settings_that_make_no_tree_are_refused(words, made):
    with pytest.raises(ValueError, match=words):
        made()


def all_shapes(nodes, depth, ranks):
    """Sets of rank paths closed under parents and earlier siblings, of exactly so many nodes."""
    def grow(found, left):
        if not left:
            yield frozenset(found)
            return
        for path in candidates(found):
            yield from grow(found | {path}, left - 1)

    def candidates(found):
        for parent in [(), *found]:
            if len(parent) < depth:
                rank = sum(other[:-1] == parent and len(other) == len(parent) + 1 for other in found)
                if rank < ranks:
                    yield (*parent, rank)

    return set(grow(set(), nodes))


def expected(shape, acceptance):
    return sum(torch.tensor([acceptance[rank] for rank in path]).prod().item() for path in shape)


@pytest.mark.parametrize("acceptance", [[0.6, 0.2, 0.1], [0.4, 0.3, 0.2], [0.9, 0.05], [0.5, 0.5]])
@pytest.mark.parametrize(("nodes", "depth"), [(1, 3), (4, 2), (5, 4), (6, 3)])
def test_sequoias_tree_is_the_best_of_all(acceptance, nodes, depth):
    best = max(expected(shape, acceptance) for count in range(1, nodes + 1) for shape in all_shapes(count, depth, len(acceptance)))
    found = paths(best_shape(acceptance, nodes, depth))
    assert len(found) <= nodes and max(map(len, found)) <= depth
    assert expected(found, acceptance) == pytest.approx(best, abs=1e-6)


def test_rates_by_rank_are_those_of_the_rounds():
    rates, draft = RankRates(3), Draft.of_nodes([1, 2, 3, 4], (ROOT, ROOT, 1, 1))
    for path in [(1, 3)] * 60 + [()] * 40:
        rates.observe(draft, Verdict(path, 0))
    assert rates.tried == [160, 160, 0] and rates.accepted == [0, 120, 0]
    first, second, third = rates.acceptance()
    assert first < 0.03 and second <= first and third <= second  # never a later sibling first


def test_sequoia_learns_where_the_second_guess_is_often_right():
    shapes, draft = SequoiaShape(6, 6, 4), Draft.of_nodes([1, 2], (ROOT, ROOT))
    for i in range(64):
        shapes.observe(draft, Verdict((i % 2,), 0))
    wide = paths(shapes.shape())
    sure = SequoiaShape(6, 6, 4)
    for _ in range(64):
        sure.observe(draft, Verdict((0,), 0))
    assert (1,) in wide and max(map(len, paths(sure.shape()))) > max(map(len, wide))


def best_first_by_hand(runner, context, branching, depth, max_nodes):
    """All paths down to `depth`, sorted by probability."""
    found = []
    for length in range(1, depth + 1):
        for path in itertools.product(range(runner.vocab), repeat=length):
            p, allowed, ids = 1.0, True, list(context)
            for token in path:
                law = runner.at(ids).softmax(-1)
                allowed &= token in law.topk(branching).indices.tolist()
                p *= law[token].item()
                ids.append(token)
            if allowed:
                found.append((p, path))
    return sorted(path for _, path in sorted(found, reverse=True)[:max_nodes])


@pytest.mark.parametrize("max_nodes", [1, 3, 7, 12])
def test_best_first_is_best_first(max_nodes):
    runner = TabularRunner(5, vocab=4)
    draft = GrownTreeDrafter(runner, BestFirst(3, 4), max_nodes).propose(Context([0, 1, 2]), 4, Draws())
    assert sorted(tuple(draft.ids[i] for i in draft.path(n)) for n in range(len(draft))) == best_first_by_hand(runner, [0, 1, 2], 3, 4, max_nodes)


def test_a_threshold_tree_goes_deeper_only_where_paths_are_likely():
    runner, context = TabularRunner(6, vocab=4), Context([0, 1, 2])
    draft = GrownTreeDrafter(runner, Threshold(2, 4, 0.25), 100).propose(context, 4, Draws())
    for node in range(len(draft)):
        p, ids = 1.0, list(context.ids)
        for i in draft.path(node):
            p *= runner.at(ids).softmax(-1)[draft.ids[i]].item()
            ids.append(draft.ids[i])
        assert bool(draft.children(node)) == (p >= 0.25 and draft.depths[node] < 4)


def test_an_adaptive_tree_follows_confidence_and_history():
    growth = Adaptive()
    assert [growth.children(c) for c in (0.95, 0.6, 0.2)] == [1, 2, 3]
    assert growth.expands(0.3, 4) and not growth.expands(0.3, 5) and growth.expands(0.6, 5) and not growth.expands(0.9, 8)
    assert not growth.expands(0.09, 1)
    for _ in range(20):
        growth.observe(5, 5)
    assert growth.base_depth == 8 and growth.high < 0.9 and growth.expands(0.3, 5)
    for _ in range(40):
        growth.observe(5, 0)
    assert growth.base_depth == 2 and growth.high == 0.95 and not growth.expands(0.3, 2)
    growth.start()
    assert growth.base_depth == 5 and growth.high == 0.9


def test_siblings_with_children_come_first():
    with pytest.raises(ValueError, match="without children"):
        Shape(((1, 2), (), (3,), ()))
    assert [(level.rows, level.width) for level in FixedShape([2, 2], max_nodes=5).shape().levels] == [(1, 2), (2, 2)]
