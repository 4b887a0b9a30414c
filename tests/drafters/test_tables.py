"""Tables: counts and probabilities against slow ones, files that refuse what does not fit, and the command that builds them."""

import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_models import VOCAB, build

from specexp.decoding.context import Context
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Draws, Sampling
from specexp.drafters import ngrams
from specexp.drafters.katz import KatzDrafter, katz, load_katz
from specexp.drafters.ngrams import BigramDrafter, bigrams, load_bigrams
from specexp.errors import UserError
from specexp.models.pair import load_tokenizer
from specexp.tables import __main__ as command
from specexp.training import texts as written

SHIPPED = "asset:tables/tiny_{}.safetensors"


def documents(seed, vocabulary, count=40, length=30):
    rng = random.Random(seed)
    law = [rng.random() ** 3 for _ in range(vocabulary)]
    return [rng.choices(range(vocabulary), law, k=rng.randint(0, length)) for _ in range(count)]


def counted(texts, vocabulary):
    counts = ngrams.NgramCounts(vocabulary)
    counts.read(texts)
    return counts


def grams(texts, order):
    return Counter(tuple(text[i : i + order]) for text in texts for i in range(len(text) - order + 1))


@pytest.mark.parametrize("block", [7, 1_000_000])
def test_counts_are_those_of_a_plain_count_in_blocks_too(block, monkeypatch):
    monkeypatch.setattr(ngrams, "BLOCK", block)
    texts = documents(1, 9)
    counts = counted(texts, 9)
    assert counts.tokens == sum(map(len, texts))
    for order in (1, 2, 3):
        keys = {gram: sum(token * 9 ** (order - 1 - i) for i, token in enumerate(gram)) for gram in grams(texts, order)}
        assert dict(zip(counts.keys[order].tolist(), counts.counts[order].tolist(), strict=True)) == {
            keys[gram]: count for gram, count in grams(texts, order).items()
        }


def test_bigrams_are_the_most_frequent_successors():
    texts = documents(2, 30)
    table = bigrams(counted(texts, 30), "t")
    pairs = grams(texts, 2)
    for v in range(30):
        behind = {w: pairs[v, w] for w in range(30) if (v, w) in pairs}
        assert table.next[v] == (min(w for w in behind if behind[w] == max(behind.values())) if behind else -1)


def discount(counts):
    once, twice = (sum(1 for c in counts.values() if c == n) for n in (1, 2))
    return once / (once + 2 * twice) if once and twice else 0.5


def slow_katz(texts, size, least):
    """P(w | u, v) by the definition, with nothing shared and nothing vectorised."""
    c = {order: grams(texts, order) for order in (1, 2, 3)}
    total = sum(c[1].values())
    levels = {2: discount(c[2]), 3: discount(c[3])}

    def p(context):
        if not context:
            return [(c[1][w,] + 1) / (total + size) for w in range(size)]
        order, shorter = len(context) + 1, p(context[1:])
        kept = {w: c[order][(*context, w)] for w in range(size) if c[order][(*context, w)] >= least}
        if not kept:
            return shorter
        everything = sum(count for gram, count in c[order].items() if gram[:-1] == context)
        seen = {w: (count - levels[order]) / everything for w, count in kept.items()}
        if len(seen) == size:
            return [seen[w] / sum(seen.values()) for w in range(size)]
        alpha = (1 - sum(seen.values())) / (1 - sum(shorter[w] for w in seen))
        return [seen.get(w, alpha * shorter[w]) for w in range(size)]

    return p


@pytest.mark.parametrize(("size", "least"), [(3, 1), (12, 1), (12, 2), (12, 4), (40, 3)])
def test_katz_is_the_definition_and_sums_to_one(size, least, tmp_path):
    texts = documents(size, size)
    table = katz(counted(texts, size), "t", least)
    table.save(tmp_path / "t.safetensors")
    loaded, definition = load_katz(str(tmp_path / "t.safetensors")), slow_katz(texts, size, least)
    for u in range(size):
        for v in range(size):
            p = loaded.distribution([u, v])
            assert abs(float(p.sum()) - 1) < 1e-12 and float(p.min()) >= 0
            assert torch.allclose(p, torch.tensor(definition((u, v)), dtype=torch.float64), atol=1e-12, rtol=0)
            assert torch.equal(p, table.distribution([u, v]))
    assert torch.allclose(loaded.distribution([0]), torch.tensor(definition((0,)), dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.equal(loaded.distribution([]), loaded.unigrams)
    assert torch.equal(loaded.distribution([size + 1]), loaded.unigrams)


@pytest.mark.parametrize("texts", [[], [[0]], [[0, 1]], [[0, 1, 2]]])
def test_hardly_any_text_still_makes_tables(texts):
    counts = counted(texts, 4)
    assert abs(float(katz(counts, "t").distribution([0, 1]).sum()) - 1) < 1e-12
    assert len(bigrams(counts, "t").next) == 4


def test_shipped_tables_fit_the_shipped_tokenizer_and_are_distributions():
    from specexp.models.pair import entries

    size = entries(load_tokenizer("asset:tiny/target"))
    pairs, triples = load_bigrams(SHIPPED.format("bigram")), load_katz(SHIPPED.format("trigram"))
    assert pairs.facts.vocab_size == triples.facts.vocab_size == size == len(pairs.next)
    assert pairs.facts.tokenizer == "asset:tiny/target" and pairs.facts.tokens > 1_000_000
    rng = random.Random(0)
    for _ in range(200):
        p = triples.distribution([rng.randrange(size), rng.randrange(size)])
        assert abs(float(p.sum()) - 1) < 1e-12 and float(p.min()) > 0
    assert math.isclose(float(triples.unigrams.sum()), 1)


@pytest.mark.parametrize("rows", [5, 6, 9])
def test_chains_respect_the_rows_of_the_logits(rows):
    texts = documents(4, 6)
    counts, vocabulary = counted(texts, 6), SimpleNamespace(entries=6, rows=rows)
    context, greedy, drawn = Context([1, 2]), Draws(), Draws(Sampling(1.0))
    back_off, chain = KatzDrafter(katz(counts, "t"), FixedLength(4), vocabulary), BigramDrafter(bigrams(counts, "t"), FixedLength(4), vocabulary)
    for drafter, draws in ((back_off, greedy), (back_off, drawn), (chain, greedy)):
        drafter.start([1, 2], 10)
        assert drafter.propose(context, 0, draws).ids == ()
        draft = drafter.propose(context, 3, draws)
        assert len(draft) <= 3 and all(token < rows for token in draft.ids)
        assert len(draft) == 3 or drafter is chain
    assert back_off.propose(context, 4, drawn).q.shape == (4, rows)
    assert back_off.propose(context, 1, greedy).ids == (int(back_off.table.distribution([1, 2])[:rows].argmax()),)


def test_tables_of_another_kind_or_tokenizer_are_refused(tmp_path):
    counts = counted(documents(5, 6), 6)
    pairs, triples = tmp_path / "b.safetensors", tmp_path / "k.safetensors"
    bigrams(counts, "gpt2").save(pairs)
    katz(counts, "gpt2").save(triples)
    with pytest.raises(UserError, match=r"there is no bigram table .*none.*python -m specexp.tables"):
        load_bigrams(str(tmp_path / "none"))
    with pytest.raises(UserError, match="is no trigram table but bigram"):
        load_katz(str(pairs))
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read"):
        load_katz(str(tmp_path / "junk"))
    for entries in (5, 6 + 65):
        other = SimpleNamespace(entries=entries, rows=entries)
        with pytest.raises(UserError, match=f"built for gpt2 with 6 ids, but this pair's tokenizer has {entries};"):
            BigramDrafter(load_bigrams(str(pairs)), FixedLength(1), other)
        with pytest.raises(UserError, match="built for gpt2 with 6 ids"):
            KatzDrafter(load_katz(str(triples)), FixedLength(1), other)


def test_a_table_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*--out DIR"):
        bigrams(counted([[0, 1]], 4), "t").save(tmp_path / "file" / "b.safetensors")


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0)], ids=["greedy", "multinomial"])
def test_ids_added_behind_a_tables_own_are_never_drafted_and_no_context(sampling):
    counts, longer = counted([[0, 1, 2, 3, 4, 5] * 3], 6), SimpleNamespace(entries=8, rows=10)
    for drafter in (KatzDrafter(katz(counts, "t"), FixedLength(4), longer), BigramDrafter(bigrams(counts, "t"), FixedLength(4), longer)):
        for last in (2, 7):
            draft = drafter.propose(Context([1, last]), 4, Draws(sampling))
            assert all(token < 6 for token in draft.ids) and (draft.q is None or draft.q.shape[1] == 10)


def test_the_command_builds_from_files_and_from_the_generator(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("return result\n" * 20)
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "for value in values:"}\n' * 3)
    command.main([str(tmp_path / "in"), "--tokenizer", "asset:tiny/target", "--out", str(tmp_path), "--name", "mine"])
    assert "mine_bigram.safetensors" in capsys.readouterr().out
    tokenizer, table = load_tokenizer("asset:tiny/target"), load_bigrams(str(tmp_path / "mine_bigram.safetensors"))
    first, second = tokenizer("return result")["input_ids"]
    assert table.next[first] == second
    command.main(["--tokenizer", "asset:tiny/target", "--out", str(tmp_path), "--documents", "8"])
    assert load_katz(str(tmp_path / "tables_trigram.safetensors")).facts.tokens > 100
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_table_of_what_a_model_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.training.texts.LENGTH", 60)  # some of the texts end before
    common = ["--tokenizer", "asset:tiny/draft", "--written", "asset:tiny/draft", "--documents", "70", "--min-count", "1", "--out"]
    tables = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        command.main([*common, str(tmp_path / name), "--seed", seed])
        tables.append(load_katz(str(tmp_path / name / "tables_trigram.safetensors")))
    assert 70 <= tables[0].facts.tokens < 70 * 60
    assert torch.equal(tables[0].unigrams, tables[1].unigrams) and not torch.equal(tables[0].unigrams, tables[2].unigrams)


REFUSALS = {
    "nowhere does not exist": ["nowhere"],
    "there is no text to count": ["empty"],
    "are two sources": ["empty", "--written", "asset:tiny/draft"],
    "--temperature 0 draws nothing": ["--written", "asset:tiny/draft", "--temperature", "0"],
    "--written=nowhere/at/all": ["--written", "nowhere/at/all"],
    "no token that texts begin with": ["--written", "asset:tiny_t5/draft"],
}


@pytest.mark.parametrize(("words", "arguments"), REFUSALS.items(), ids=REFUSALS)
def test_the_command_refuses_in_one_sentence(words, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=f"^.*{words}"):
        command.main([*arguments, "--tokenizer", "asset:tiny/target", "--out", "."])


def test_a_model_with_padded_rows_writes_only_ids_that_the_tokenizer_knows(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=2112, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0, eos_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "padded")
    monkeypatch.setattr("specexp.training.texts.LENGTH", 30)
    command.main(["--tokenizer", "asset:tiny/target", "--written", str(tmp_path / "padded"), "--documents", "64", "--out", str(tmp_path)])
    assert load_katz(str(tmp_path / "tables_trigram.safetensors")).facts.vocab_size == 2048


def test_a_model_of_fewer_ids_than_the_tokenizer_is_refused(monkeypatch):
    monkeypatch.setattr(written, "load_model", lambda *_: build("llama"))
    with pytest.raises(UserError, match=f"small has {VOCAB} ids and the tokenizer 2048; give --tokenizer"):
        next(written.sampled_texts("small", load_tokenizer("asset:tiny/target"), 1.0, 1, 0))
