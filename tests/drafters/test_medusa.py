"""Medusa: drafts leave the law alone, trees are the best of their size, files and training. (What the heads read: runners/test_states.py.)"""

import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chat_models import TEMPLATE, saved
from decodes import decode, never, text
from running import composed, run
from tabular import TabularRunner, completed, law_of, total_variation
from tiers import tiered
from tiny_models import ENCODER_DECODER, TREES, VOCAB, build, build_encoder_decoder

from specexp.assets import asset_path
from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.sampling import GREEDY, Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier, TypicalAcceptance
from specexp.drafters.medusa import MedusaDrafter, assumed_accuracies, medusa_tree, static_tree
from specexp.drafters.model import NoDraft
from specexp.errors import UserError
from specexp.medusa import __main__ as command
from specexp.models.heads import HeadsFile, MedusaHeads, fitted, save
from specexp.models.loading import load_model
from specexp.models.pair import load_tokenizer, stop_ids
from specexp.models.spec import ModelSpec
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner
from specexp.text import Prompter
from specexp.training import medusa as making
from specexp.training.heads import NONE, Plan, States, Trainer, accuracies, labelled, places
from specexp.training.texts import Text, beginnings, continued, documents, generated

SHIPPED = "asset:medusa/tiny"
TARGET = ModelSpec("asset:tiny/target", dtype="float32")


# The drafter


class TabularHeads:
    """Guesses by the last two ids, as random as the target's own law."""

    def __init__(self, seed, count, vocab=3):
        generator = torch.Generator().manual_seed(seed)
        self.tables = torch.randn(count, vocab + 1, vocab, vocab, generator=generator, dtype=torch.float64)

    def __len__(self):
        return len(self.tables)

    def __call__(self, states):
        assert states.shape == (1, 2)  # of one token, not of the whole text's
        before, last = states.long().T
        return self.tables[:, before, last]


def decode_with(target, heads, tree, tokens=48, **options):
    """One text, drafted by heads on the target's own states."""
    return decode(target, MedusaDrafter(target, heads, tree), tokens, **options)


LENGTH = 4  # the prefill's token and one round of drafts, or more rounds
PAIRS = {
    "chain": [(0,), (0, 0), (0, 0, 0)],
    "wide": [(0,), (1,), (2,)],
    "tree": [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 2)],
    "bush": [(0,), (1,), (1, 0), (1, 2)],
}
SMALL = ("chain", "wide", "bush")  # each node is one more draw to enumerate
SAMPLINGS = {"greedy": GREEDY, "multinomial": Sampling(1.0), "nucleus": Sampling(1.3, top_p=0.8)}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("tree", tiered({name: PAIRS[name] for name in SMALL}, ["wide"]))
def test_whole_texts_have_the_targets_law(tree, sampling):
    target = TabularRunner(1)
    decoder = Decoder(target, MedusaDrafter(target, TabularHeads(2, 3), tree), RejectionVerifier())
    assert target.keeps_states
    drafted = []

    def whole(draws):
        steps = list(decoder.generate([0, 1, 2], LENGTH, never, draws))
        drafted.append(max(step.drafted for step in steps))
        return tuple(token for step in steps for token in step.tokens)

    law = law_of(whole, sampling)
    assert total_variation(law, completed({(): 1.0}, target, sampling, [0, 1, 2], LENGTH)) < 1e-12
    assert max(drafted) == sum(len(path) < LENGTH - 1 for path in tree)


def test_shape_follows_the_tree_and_the_limit():
    target, heads = TabularRunner(1), TabularHeads(2, 3)
    drafter = MedusaDrafter(target, heads, [(0, 0, 2), (1, 0), (0,), (0, 1), (1,), (0, 0)])
    assert drafter.needs_trees and not drafter.models  # the heads are no model of their own
    assert not MedusaDrafter(target, heads, PAIRS["chain"]).needs_trees

    def guesses(before, last):
        """Behind the state of the text's last token but one, the heads' ids by rank."""
        best = heads(torch.tensor([[before, last]], dtype=torch.float64))[:, 0].argsort(-1, descending=True)
        return [int(token) for token in (best[0, 0], best[0, 1], best[1, 0], best[1, 1], best[1, 0], best[2, 2])]

    context = Context([2, 1, 0])
    for limit, parents in {1: (ROOT, ROOT), 2: (ROOT, ROOT, 0, 0, 1), 3: (ROOT, ROOT, 0, 0, 1, 2), 9: (ROOT, ROOT, 0, 0, 1, 2)}.items():
        drafter.start([2, 1], 9)
        assert len(drafter.propose(Context([2]), 5, Draws())) == 0  # nothing to read yet
        draft = drafter.propose(context, limit, Draws())
        assert draft.parents == parents and list(draft.ids) == guesses(2, 1)[: len(parents)] and draft.q is None
    drafted = {}
    for ids in ([2, 1, 0, 2, 2], [2, 1, 0, 2, 2, 0], [1, 0]):  # the text went on by other means, or is another one
        drafted[tuple(ids)] = drafter.propose(Context(ids), 5, Draws()).ids
        assert drafted[tuple(ids)] == tuple(guesses(*[target.vocab, *ids][-3:-1]))
    assert len(set(drafted.values())) == 3
    assert len(drafter.propose(Context([2, 1, 0, 2, 2, 0]), 0, Draws())) == 0


@pytest.mark.parametrize("tree", [[(0, 0)], [(0,), (1, 0)], [(0,), (0,)], [()]])
def test_what_is_no_tree_is_refused(tree):
    with pytest.raises(ValueError, match="fits into no tree"):
        MedusaDrafter(TabularRunner(1), TabularHeads(2, 3), tree)
    with pytest.raises(ValueError, match="2 deep, but there are 1 Medusa heads"):
        MedusaDrafter(TabularRunner(1), TabularHeads(2, 1), [(0,), (0, 0)])


class Clairvoyant:
    """Knows the greedy text: finds the state in it and says what comes, right at the rank that is asked for."""

    def __init__(self, model, ids, count, rank):
        self.states, self.ids, self.count, self.rank = model.base_model(torch.tensor([ids])).last_hidden_state[0], ids, count, rank

    def __len__(self):
        return self.count

    def __call__(self, hidden):
        at = int((self.states - hidden).abs().sum(-1).argmin())
        logits = torch.zeros(self.count, 1, VOCAB)
        for head in range(self.count):
            logits[head, 0] = torch.arange(VOCAB, 0, -1)
            logits[head, 0, self.ids[at + 2 + head]] = VOCAB + 0.5 - self.rank
        return logits


@pytest.mark.parametrize(("tree", "rank"), [(PAIRS["chain"], 0), ([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)], 0), ([(0,), (1,), (0, 0), (1, 0), (1, 1), (1, 1, 0), (1, 1, 1)], 1)])
def test_heads_that_are_right_are_kept_to_the_full_depth(tree, rank):
    model, prompt = build("llama"), [5, 17, 33, 17]
    expected = text(decode(StatelessRunner(model), NoDraft(), 60, prompt))
    heads = Clairvoyant(model, prompt + expected, 3, rank)
    steps = decode_with(ModelRunner(model), heads, tree, 41, prompt=prompt)
    assert text(steps) == expected[:41]
    assert [step.accepted for step in steps] == [0] + [3] * 10
    assert all(step.drafted == len(tree) for step in steps[1:-1])


@pytest.mark.parametrize("kind", TREES)
def test_useless_heads_change_no_text(kind):
    model = build(kind)
    torch.manual_seed(0)
    heads = MedusaHeads.beginning(torch.randn(VOCAB, 32), 3, 2).requires_grad_(False)
    expected = text(decode(StatelessRunner(model), NoDraft(), 40))
    for tree in PAIRS.values():
        assert text(decode_with(ModelRunner(model), heads, tree, 40)) == expected
    assert text(decode_with(StatelessRunner(model), heads, PAIRS["bush"], 40)) == expected


@pytest.mark.parametrize("tree", PAIRS)
def test_useless_heads_change_no_text_of_a_streaming_cache(tree):
    model, sink = build("llama"), lambda model: SinkRunner(model, None, 4, 68, 32)
    heads = MedusaHeads.beginning(torch.randn(VOCAB, 32), 3, 1).requires_grad_(False)
    assert text(decode_with(sink(model), heads, PAIRS[tree], 150)) == text(decode(sink(model), NoDraft(), 150))


@pytest.mark.parametrize("kind", ENCODER_DECODER)
def test_useless_heads_change_no_text_of_an_encoder_decoder_model(kind):
    model, heads = build_encoder_decoder(kind), MedusaHeads.beginning(torch.randn(VOCAB, 32), 3, 1).requires_grad_(False)
    expected = text(decode(StatelessRunner(model), NoDraft(), 30, [5, 6, 7, 8, 1]))
    for runner in (ModelRunner(model), StatelessRunner(model)):
        assert text(decode_with(runner, heads, PAIRS["chain"], 30, prompt=[5, 6, 7, 8, 1])) == expected


def test_models_without_trees_take_chains():
    model, heads = build("bloom"), MedusaHeads.beginning(torch.randn(VOCAB, 32), 3, 1).requires_grad_(False)
    expected = text(decode(StatelessRunner(model), NoDraft(), 30))
    assert text(decode_with(ModelRunner(model), heads, PAIRS["chain"], 30)) == expected
    with pytest.raises(ValueError, match="cannot verify token trees"):
        decode_with(ModelRunner(model), heads, PAIRS["tree"])


# Trees


def closed(paths):
    return all(path[:-1] in paths or len(path) == 1 for path in paths)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("heads", "ranks"), [(2, 3), (3, 2)])
def test_no_other_tree_of_this_size_is_better(heads, ranks, seed):
    rng = random.Random(seed)
    measured = [[round(rng.random(), 1) for _ in range(ranks)] for _ in range(heads)]
    if seed % 2:
        measured = [sorted(row, reverse=True) for row in measured]
    worth = lambda path: math.prod(measured[head][rank] for head, rank in enumerate(path))
    paths = [path for depth in range(1, heads + 1) for path in itertools.product(range(ranks), repeat=depth)]
    for nodes in range(1, 6):
        tree = medusa_tree(measured, nodes)
        assert len(set(tree)) == nodes and closed(set(tree)) and list(tree) == sorted(tree, key=lambda path: (len(path), path))
        best = max(sum(map(worth, chosen)) for chosen in itertools.combinations(paths, nodes) if closed(set(chosen)))
        assert sum(map(worth, tree)) == pytest.approx(best)
    assert len(medusa_tree(measured, 1000)) == len(paths)


def test_one_rank_is_a_chain_and_unmeasured_heads_get_the_assumed_tree():
    assert medusa_tree(assumed_accuracies(4), 9, ranks=1) == ((0,), (0, 0), (0, 0, 0), (0, 0, 0, 0))

    class Unmeasured:
        heads, accuracies = 3, None

    assert static_tree(Unmeasured(), 5) == medusa_tree(assumed_accuracies(3), 5)
    assert static_tree(Unmeasured(), 2) == ((0,), (0, 0))
    for bad in ({"nodes": 0}, {"nodes": 3, "ranks": 0}):
        with pytest.raises(ValueError, match="make no tree"):
            medusa_tree(assumed_accuracies(2), **bad)


def test_a_tree_of_ones_own():
    class Heads:
        heads, vocabulary, accuracies = 2, 10, None

    assert static_tree(Heads(), None, paths=[[0, 2], [0], [1]]) == ((0,), (1,), (0, 2))
    for several in ({"nodes": 4, "paths": [[0]]}, {"nodes": None, "paths": None}, {"nodes": None, "ranks": 2, "paths": [[0]]}):
        with pytest.raises(ValueError, match="make no tree"):
            static_tree(Heads(), **several)
    for none in ([[-1]], [[0, 0]], [[0], [0]], [[]], [[0], [1, 0]]):
        with pytest.raises(ValueError, match="fits into no tree"):
            static_tree(Heads(), None, paths=none)


# Typical acceptance


def test_the_rule_by_hand():
    verifier = TypicalAcceptance(epsilon=0.2, delta=0.5)
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    expected = [0.2, 0.125, 0.2]  # 0.5 exp(-log 2) = 0.25 is above epsilon; 0.5 exp(-log 4) = 0.125 is not
    assert verifier.thresholds(p).tolist() == pytest.approx(expected)
    draft = Draft(torch.tensor([0, 1, 3, 0, 2]), (ROOT, ROOT, 0, 1, 3))
    logits = torch.stack([p[0], p[1], p[2], p[1], p[2], p[2]]).log()
    draws = Draws(Sampling(1.0))
    verdict = verifier(draft, logits, draws)
    assert verdict.path == (1, 3)  # 0 (.5) and its 3 (.25): 2 long, .125; 1 (.5) and its 0 (.97): .485; its 2 (.01) is refused
    assert verifier(Draft.of_ids([2, 0]), torch.stack([p[0], p[1], p[2]]).log(), draws).path == ()
    assert verifier(Draft.of_ids([1, 0]), torch.stack([p[0], p[1], p[2]]).log(), draws).path == (0, 1)
    assert verifier(empty_draft(), p[2:].log(), draws).path == ()


def test_at_temperature_zero_it_is_greedy_matching():
    rng, typical, exact = random.Random(0), TypicalAcceptance(), RejectionVerifier()
    torch.manual_seed(0)
    longest = 0
    for _ in range(200):
        nodes = rng.randrange(0, 8)
        parents = tuple(rng.randrange(ROOT, i) for i in range(nodes))
        tokens, taken = [], set()
        for parent in parents:
            tokens.append(next(token for token in rng.sample(range(9), 9) if (parent, token) not in taken))
            taken.add((parent, tokens[-1]))
        logits = torch.randn(nodes + 1, 9)
        for node, parent in enumerate(parents):
            if rng.random() < 0.5:
                logits[parent + 1, tokens[node]] += 9
        draft = Draft(torch.tensor(tokens, dtype=torch.int64), parents)
        verdict = typical(draft, logits, Draws())
        assert verdict == exact(draft, logits, Draws())
        longest = max(longest, len(verdict.path))
    assert longest > 2
    model = build("llama")
    heads = MedusaHeads.beginning(torch.randn(VOCAB, 32), 3, 1).requires_grad_(False)
    target = ModelRunner(model)
    steps = list(Decoder(target, MedusaDrafter(target, heads, PAIRS["tree"]), typical).generate([5, 6], 30, never, Draws(GREEDY)))
    assert text(steps) == text(decode(StatelessRunner(model), NoDraft(), 30, [5, 6]))


def test_typical_acceptance_is_lossy_under_sampling():
    sampling, target = Sampling(1.0), TabularRunner(1)
    decoder = Decoder(target, MedusaDrafter(target, TabularHeads(2, 3), PAIRS["tree"]), TypicalAcceptance())
    law = law_of(lambda draws: tuple(t for step in decoder.generate([0, 1, 2], 3, never, draws) for t in step.tokens), sampling)
    assert not decoder.lossless
    assert total_variation(law, completed({(): 1.0}, target, sampling, [0, 1, 2], 3)) > 0.01


@pytest.mark.parametrize("bad", [{"epsilon": 0.0}, {"epsilon": 1.0}, {"delta": 0.0}])
def test_thresholds_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValueError, match="do not fit"):
        TypicalAcceptance(**bad)


# Heads and their files


def random_heads(heads=3, layers=2, hidden=6, vocabulary=10):
    made = MedusaHeads(heads, layers, hidden, vocabulary)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.requires_grad_(False)


def test_heads_are_the_papers_formula_each_on_its_own():
    heads, states = random_heads(), torch.randn(5, 6)
    logits = heads(states)
    assert logits.shape == (3, 5, 10)
    for head in range(3):
        x = states
        for block in range(2):
            x = x + torch.nn.functional.silu(x @ heads.inner[block, head].T + heads.bias[block, head])
        torch.testing.assert_close(logits[head], x @ heads.output[head].T)
        torch.testing.assert_close(heads.one(head, states), logits[head])


def test_heads_begin_as_the_targets_own_projection():
    projection, states = torch.randn(10, 6), torch.randn(4, 6)
    heads = MedusaHeads.beginning(projection, 3, 2)
    torch.testing.assert_close(heads(states), (states @ projection.T).expand(3, 4, 10))
    heads.inner.data[0, 1, 0, 0] = 1.0
    assert not heads.inner[1, 1].any() and not heads.inner[0, 0].any()  # every block has its own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_heads_load(tmp_path, dtype):
    heads = random_heads()
    save(heads, tmp_path, {"accuracies": [[0.5, 0.1]] * 3, "base_model_name_or_path": "someone/model"}, dtype)
    file = HeadsFile(str(tmp_path))
    assert (file.heads, file.layers, file.hidden, file.vocabulary) == (3, 2, 6, 10)
    assert file.accuracies == [[0.5, 0.1]] * 3 and file.config["medusa_num_heads"] == 3
    for name, tensor in file.load().state_dict().items():
        assert torch.equal(tensor, heads.state_dict()[name].to(dtype))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "medusa_lm_head.safetensors"]


@pytest.mark.parametrize("layout", ["safetensors", "pt", "whole"])
def test_published_layouts_load(layout, tmp_path):
    """As the Hub has them: a configuration that tells too few heads, keys of nested modules; or heads among the weights of a whole model."""
    from safetensors.torch import save_file

    heads = random_heads(heads=5, layers=1)
    tensors = {}
    for head in range(5):
        block = {"linear.weight": heads.inner[0, head].clone(), "linear.bias": heads.bias[0, head].clone()}
        tensors |= {f"{head}.0.{name}": tensor for name, tensor in block.items()} | {f"{head}.1.weight": heads.output[head].clone()}
    if layout == "pt":
        torch.save(tensors, tmp_path / "medusa_lm_head.pt")
    elif layout == "safetensors":
        save_file(tensors, tmp_path / "medusa_lm_head.safetensors")
    else:
        whole = {f"medusa_head.{name}": tensor for name, tensor in tensors.items()} | {"model.layers.0.weight": torch.zeros(2)}
        shards = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(whole)}
        for shard in set(shards.values()):
            save_file({name: tensor for name, tensor in whole.items() if shards[name] == shard}, tmp_path / shard)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "config.json").write_text('{"medusa_num_heads": 2, "medusa_num_layers": 1, "base_model_name_or_path": "someone/model"}')
    file = HeadsFile(str(tmp_path))
    assert (file.heads, file.layers, file.accuracies) == (5, 1, None)
    assert all(torch.equal(tensor, heads.state_dict()[name]) for name, tensor in file.load().state_dict().items())


def test_a_pickle_that_is_more_than_tensors_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"0.0.linear.weight": Evil()}, tmp_path / "medusa_lm_head.pt")
    with pytest.raises(UserError, match="cannot be read as tensors"):
        HeadsFile(str(tmp_path))
    assert not (tmp_path / "touched").exists()


def test_heads_that_do_not_fit_are_refused_in_one_sentence(tmp_path, monkeypatch):
    save(random_heads(), tmp_path / "small", {})
    with pytest.raises(UserError, match=r"small are for states of 6 numbers and 10 ids, but asset:tiny/target has 160 and 2048; give method.heads=DIR"):
        HeadsFile(str(tmp_path / "small"), TARGET)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no Medusa heads"):
        HeadsFile(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no Medusa heads are known for this target; train some with python -m specexp.medusa"):
        HeadsFile(None)
    with pytest.raises(UserError, match="method.heads=no/where/at/all does not exist"):
        HeadsFile("no/where/at/all")
    monkeypatch.setattr("specexp.models.preflight.offline", lambda: True)
    with pytest.raises(UserError, match=r"someone/heads is not .* the Hub cannot be reached: .* method.heads=DIRECTORY"):
        HeadsFile("someone/heads")
    (tmp_path / "small" / "medusa_lm_head.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read as tensors"):
        HeadsFile(str(tmp_path / "small"))


@pytest.mark.parametrize("cached", [True, False])
def test_heads_of_a_hub_repository_load_from_its_cache_or_are_fetched(cached, tmp_path, monkeypatch):
    save(random_heads(), tmp_path, {})
    asked = []
    found = lambda place, revision, file: tmp_path / file if cached and (tmp_path / file).exists() else None
    monkeypatch.setattr("specexp.models.preflight._cached", found)
    monkeypatch.setattr("specexp.models.preflight.offline", lambda: cached)
    monkeypatch.setattr("specexp.models.preflight._on_hub", lambda place, revision, file, key: (tmp_path / file).exists())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda place, file: asked.append((place, file)) or str(tmp_path / file))
    assert HeadsFile("someone/heads").load().inner.shape == (2, 3, 6, 6)
    assert asked == ([] if cached else [("someone/heads", "medusa_lm_head.safetensors"), ("someone/heads", "config.json")])


def test_heads_with_a_piece_missing_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save(random_heads(), tmp_path, {})
    file = tmp_path / "medusa_lm_head.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if name != "1.1.linear.bias"}, file)
    with pytest.raises(UserError, match="incomplete Medusa heads: 1.1.linear.bias"):
        HeadsFile(str(tmp_path))


# Training


def test_labels_are_the_ids_two_and_more_places_on():
    assert labelled(Text((10, 11, 12, 13, 14)), 3).tolist() == [[12, 13, 14], [13, 14, NONE], [14, NONE, NONE]]
    assert labelled(Text((10, 11, 12, 13, 14), start=3), 2).tolist() == [[14, NONE]]
    assert labelled(Text((10, 11, 12), start=2), 2).shape == (0, 2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_states_are_a_plain_forward_passs_whatever_the_batch(kind):
    model, rng = build(kind, dtype=torch.float64), random.Random(0)
    texts = [Text(tuple(rng.randrange(VOCAB) for _ in range(length)), start) for length, start in [(9, 0), (5, 3), (14, 6)]]
    states = States(model, texts, 2)
    for chosen in ([0, 1, 2], [2, 0], [1]):
        hidden, labels = states(chosen)
        assert len(hidden) == len(labels)
        parts = [model.base_model(torch.tensor([texts[n].ids])).last_hidden_state[0, max(0, texts[n].start - 1) : -2] for n in chosen]
        torch.testing.assert_close(hidden, torch.cat(parts))


def trainer(path, epochs=8.0, **settings):
    """Texts in which every id tells the next ones, under a random model."""
    model = build("llama")
    texts = [Text(tuple((start + step) % VOCAB for step in range(20))) for start in range(0, VOCAB, 2)]
    heads = MedusaHeads.beginning(model.get_output_embeddings().weight, 3, 1)
    made = Trainer(heads, States(model, texts, 3), Plan(epochs, batch=8, report_every=2, **{"rate": 0.03} | settings), path / "checkpoint.pt")
    made.resume()
    return made


def test_training_learns_and_accuracy_tells(tmp_path):
    made, rows = trainer(tmp_path), []
    before, places = accuracies(made.heads, made.states)
    made.run(rows.append)
    after, _ = accuracies(made.heads, made.states)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and made.step == made.steps == 48
    assert places == 48 * 18 and all(new[0] > 0.5 > old[0] for new, old in zip(after, before, strict=True))
    assert all(sum(row) <= 1 + 1e-4 for row in after)
    assert [row["step"] for row in made.curve] == list(range(2, 49, 2))


@pytest.mark.parametrize("stop", [7, 30])
def test_resumed_training_ends_where_the_whole_does(stop, tmp_path):
    whole, part = trainer(tmp_path / "whole"), trainer(tmp_path / "part")
    whole.run(lambda row: None)

    def interrupt(row):
        if row["step"] >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.run(interrupt)
    resumed = trainer(tmp_path / "part")
    assert resumed.step >= stop
    resumed.run(lambda row: None)
    assert all(torch.equal(tensor, resumed.heads.state_dict()[name]) for name, tensor in whole.heads.state_dict().items())
    assert resumed.curve == whole.curve
    with pytest.raises(UserError, match="of a training with another target"):
        trainer(tmp_path / "part", epochs=2.0)


def test_generated_texts_hold_no_evaluation_task_and_are_the_same_again():
    tokenizer = load_tokenizer("asset:tiny/target")
    texts = list(generated(tokenizer, 60, seed=3))
    assert texts == list(generated(tokenizer, 60, seed=3)) and texts != list(generated(tokenizer, 60, seed=4))
    evaluated = {json.loads(line)["canonical_solution"] for name in ("microeval", "microcopy") for line in asset_path(f"asset:{name}.jsonl").open()}
    answers = [tokenizer.decode(text.ids[text.start : -1]) for text in texts]
    assert not evaluated & set(answers) and sum("return" in answer for answer in answers) > 30
    assert all(text.ids[-1] == tokenizer.eos_token_id for text in texts)


def test_texts_written_behind_other_beginnings_are_refused(tmp_path):
    file = tmp_path / "written.jsonl"
    file.write_text("[2, [5, 6, 7]]\n")
    with pytest.raises(UserError, match="continuations of other texts"):
        next(continued(None, [Text((5, 8), 2)], 4, [0], file, print))


@pytest.mark.slow
def test_the_target_goes_on_greedily_and_is_not_asked_twice(tmp_path):
    model, tokenizer = load_model(TARGET), load_tokenizer("asset:tiny/target")
    begun = beginnings(list(generated(tokenizer, 6, seed=0)), 0)
    ends, file, told = stop_ids(model, tokenizer), tmp_path / "written.jsonl", []
    texts = list(continued(model, begun, 24, ends, file, told.append))
    assert told == [1, 2, 3, 4, 5, 6]
    for written in texts[:3]:
        greedy = text(decode(StatelessRunner(model), NoDraft(), 24, list(written.ids[: written.start])))
        own = list(written.ids[written.start :])
        assert greedy[: len(own)] == own and (len(own) == 24 or own[-1] in ends) and not set(own[:-1]) & set(ends)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:10])  # killed while it wrote
    told.clear()
    assert list(continued(model, begun, 24, ends, file, told.append)) == texts and told == [5, 6]
    with pytest.raises(UserError, match="continuations of other texts"):
        list(continued(model, begun[:2], 24, ends, file, told.append))


def test_the_command_trains_measures_and_its_heads_run(tmp_path, capsys):
    out = tmp_path / "heads"
    brief = ["--target", "asset:tiny/target", "--dtype", "float32", "--max-new-tokens", "12"]
    learn = [*brief, "--out", str(out), "--heads", "2", "--documents", "24", "--epochs", "1", "--batch", "4"]
    making.build(command.parse(learn))
    told = capsys.readouterr().out
    assert "top 1" in told and "tokens only, so these accuracies are rough" in told
    assert not (out / "checkpoint.pt").exists()
    with pytest.raises(UserError, match="holds finished heads; choose another directory, or delete medusa_lm_head.safetensors"):
        making.build(command.parse(learn))
    file = HeadsFile(str(out), TARGET)
    assert (file.heads, len(file.accuracies), len(file.accuracies[0])) == (2, 2, 10) and file.config["places_measured"] > 0
    assert [json.loads(line)["step"] for line in (out / "curve.jsonl").read_text().splitlines()] == [6]
    making.build(command.parse([*brief, "--out", str(tmp_path / "again"), "--documents", "24", "--measure", str(out)]))
    assert HeadsFile(str(tmp_path / "again")).accuracies == file.accuracies
    run(composed("method=medusa", f"method.heads={out}"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["equal_texts"] == 1.0


def test_heads_for_a_chat_learn_from_answers_in_it(tmp_path):
    place = saved(tmp_path / "model", bos=True, template=TEMPLATE)
    out, prompter = tmp_path / "out", Prompter(load_tokenizer(place))
    brief = ["--target", place, "--out", str(out), "--max-new-tokens", "8", "--epochs", "1", "--prompt-format", "chat", "--documents", "6"]
    options = command.parse(brief)
    model, tokenizer = making.target(options)
    out.mkdir()
    own, others = making.learnt_from(options, model, tokenizer)
    said = {prompt for prompt, _ in documents(6, 0)}
    assert len(own) >= 4 and not others and all(places(text) for text in own)
    assert {text.ids[: text.start] for text in own} <= {tuple(prompter.chat_ids([{"role": "user", "content": words}])) for words in said}
    making.build(options)
    assert HeadsFile(str(out)).config["prompt_format"] == "chat"


def test_the_command_learns_from_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("The number of apples is three. " * 40)
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "for value in values:\\n    total += value"}\n' * 3)
    arguments = ["--target", "asset:tiny/target", "--out", str(tmp_path / "out"), "--length", "40", "--written", "0", "--epochs", "1"]
    making.build(command.parse([str(tmp_path / "in"), *arguments]))
    assert HeadsFile(str(tmp_path / "out"), TARGET).heads == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "there is no text to learn from"),
        (["--written", "2"], "--written 2.0 is no share"),
        (["--written", "0.5", "--prompt-format", "chat"], "--written 0.5 does not go with --prompt-format chat: the target"),
        (["--chat-template", "plain"], "--chat-template plain goes with --prompt-format chat only"),
        (["--prompt-format", "chat"], "the tokenizer of asset:tiny/target has no chat template; give --chat-template"),
        (["--heads", "0"], "--heads 0 does not fit"),
        (["--out", "file/heads"], "cannot write to --out file/heads"),
        (["--target", "asset:tiny_t5/draft"], "asset:tiny_t5/draft is an encoder-decoder model"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_command_refuses_in_one_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setattr("os.nice", lambda _: 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=f"^{words}"):
        command.main(["--target", "asset:tiny/target", "--out", "out", *arguments])


def test_heads_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the heads to .*file.*--out DIR"):
        save(MedusaHeads(1, 1, 4, 6), tmp_path / "file", {})


def test_a_curve_is_logged_offline(tmp_path, monkeypatch):
    from specexp.tracking.wandb import WandbCurve

    curve = WandbCurve(mode="offline", directory=str(tmp_path), tags=("medusa",))
    curve.start({"rate": 1e-3}, tmp_path)
    curve.finish({"tokens": 12}, [{"step": 20, "loss": 3.0}, {"step": 40, "loss": 2.0}])
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


# Runs


def test_shipped_heads_fit_and_know_their_accuracies():
    file = HeadsFile(SHIPPED, TARGET)
    assert file.heads >= 4 and len(file.accuracies) == file.heads and len(file.accuracies[0]) == 10
    assert file.accuracies[0][0] > 0.5 and file.load().output.dtype == torch.bfloat16


@pytest.mark.parametrize("nodes", [1, 16])
def test_shipped_heads_leave_the_greedy_text_alone(nodes):
    model, tokenizer, file = load_model(TARGET), load_tokenizer("asset:tiny/target"), HeadsFile(SHIPPED)
    prompts = [json.loads(line)["prompt"] for line in asset_path("asset:microeval.jsonl").open()][:2]
    for prompt in prompts:
        ids, runner = tokenizer(prompt)["input_ids"], ModelRunner(model)
        steps = decode_with(runner, fitted(file, runner), static_tree(file, nodes), 32, prompt=ids)
        assert text(steps) == text(decode(StatelessRunner(model), NoDraft(), 32, ids))
        assert nodes == 1 or len(steps) < 20


@pytest.mark.parametrize("overrides", tiered([("method.nodes=4",), ("method.nodes=8", "cache=none"), ("method.ranks=1",), ("method.nodes=6", "sampling=nucleus")], [("method.nodes=4",)]))
def test_runs_by_name(overrides, tmp_path):
    run(composed("method=medusa", *overrides), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["lossless"] is True and summary["draft_forwards"] == 0
    assert "sampling=nucleus" in overrides or summary["equal_texts"] == 1.0


@pytest.mark.parametrize("method", ["medusa", "tree"])
def test_typical_acceptance_is_marked_lossy(method, tmp_path):
    run(composed(f"method={method}", "verifier@method.verifier=typical", "sampling=multinomial"), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["lossless"] is False
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").open()]
    assert all(record["method"]["lossless"] is False and record["baseline"]["lossless"] is True for record in records)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method.heads=null",), "no Medusa heads are known for this target"),
        (("model_pair=tiny_t5", "dataset=microsum"), "no Medusa heads are known"),
        (("method.nodes=0",), "nodes=0"),
        (("method.nodes=null", "method.paths=[[0,0]]"), r"the path \[0, 0\] fits into no tree"),
        (("method.nodes=null", "method.paths=[]"), r"paths=\[\] is an empty tree"),
        (("method.nodes=null", "method.paths=[[0],[99999]]"), "ends at rank 99999, but there are 2048 ids"),
        (("method.nodes=null", "method.paths=[[99999999999999999999]]"), "ends at rank 99999999999999999999"),
        (("method.nodes=null", "method.paths=[[0],[0,0],[0,0,0],[0,0,0,0],[0,0,0,0,0]]"), "5 deep, but there are 4 Medusa heads"),
        (("method.nodes=null", "method.ranks=2", "method.paths=[[0]]"), "nodes=null, ranks=2 and a tree of paths"),
        (("method.heads=nowhere/at/all/there",), "method.heads=nowhere/at/all/there does not exist"),
        (("cache=static",), "cache=static keeps no states, which this method needs; choose cache=full"),
    ],
)
def test_what_cannot_be_is_told_before_weights_are_loaded(overrides, words, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.experiment.places.OwnModels.open", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match=words):
        run(composed("method=medusa", *overrides), tmp_path)


@pytest.mark.slow
def test_the_command_line_sweeps_over_nodes(tmp_path):
    brief = ["dataset.limit=2", "max_new_tokens=8", "warmup=1", "tracker=none", "threads=1", f"hydra.sweep.dir={tmp_path}"]
    arguments = [sys.executable, "-m", "specexp", "-m", "method=medusa", "method.nodes=4,8", *brief]
    subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path)
    assert len(list(tmp_path.rglob("summary.json"))) == 2
