"""Scores of texts: what sanitising keeps, pass@k against its formula, ROUGE against figures worked out by hand."""

from math import comb

import pytest

from specexp.scoring.texts import STOP_STRINGS, cut_at, pass_at_k, sanitise

BODY = "    total = 0\n    for x in xs:\n        # test x\n        if x:\n            total += x\n    return total"
WHOLE = "from math import inf\n\ndef add(xs):\n    return helper(xs)\n\ndef helper(xs):\n    return sum(xs)\n"


# ---------------------------------------------------------------- sanitising
@pytest.mark.parametrize("tail", [
    "", "\n\ndef other():\n    pass", "\nprint(add([1]))", "\n# Test cases\nassert add([1]) == 1",
    "\nif __name__ == '__main__':\n    add([])", "\nclass A: pass",
    "\n```\nThis function adds.", "\n[DONE]\nmore", "\n\ndef add(xs):\n    return 0",
])
def test_a_continuation_ends_with_its_function(tail):
    assert sanitise(BODY + tail, "add").rstrip() == BODY


@pytest.mark.parametrize("tail", ["", "\ndef main():\n    pass", "\ndef test_add():\n    pass", "\nif __name__ == '__main__':\n    pass",
                                  "\n# Test cases\nassert False", "\n# example\nadd([1])"])
@pytest.mark.parametrize("before, after", [("", ""), ("```python\n", "\n```\nIt adds."), ("Sure, here it is:\n\n```python\n", "\n```"),
                                           ("Sure:\n```\n", ""), ("Here it is:\n\n", ""), ("", "\n```")])
def test_a_restatement_keeps_its_imports_and_helpers(before, after, tail):
    assert sanitise(before + WHOLE + tail + after, "add").strip() == WHOLE.strip()


def test_a_restatement_replaces_the_prompts_definition():
    names = {}
    exec('def add(xs):\n    """Adds."""\n' + sanitise("```python\n" + WHOLE + "```", "add"), names)
    assert names["add"]([1, 2]) == 3


def test_a_fenced_body_is_taken_out():
    assert sanitise(f"```python\n{BODY}\n```\nIt adds.", "add").rstrip() == BODY


def test_nothing_is_cut_from_plain_code():
    assert sanitise(BODY + "\n", "add") == BODY + "\n"
    assert sanitise("", "add") == ""
    assert sanitise("return 1", "add") == "return 1"


def test_the_first_stop_by_position_wins():
    assert cut_at("a\nif b\nclass c", STOP_STRINGS) == "a"
    assert cut_at("a\nif b\nclass c", ("\nclass", "b")) == "a\nif "
    assert cut_at("abc", ()) == "abc"


# ---------------------------------------------------------------- pass@k
def test_pass_at_k_is_its_formula():
    counts = [(10, 0), (10, 3), (12, 12), (15, 14)]
    for k in (1, 5, 10):
        expected = sum(1 - comb(n - c, k) / comb(n, k) for n, c in counts) / len(counts)
        assert pass_at_k(counts, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("counts, k", [([], 1), ([(1, 1), (9, 2)], 2)])
def test_pass_at_k_needs_enough_samples(counts, k):
    with pytest.raises(ValueError, match=f"at least {k}"):
        pass_at_k(counts, k)


# ---------------------------------------------------------------- ROUGE
def rouge(prediction: str, reference: str, stemmer: bool = True) -> dict[str, float]:
    from specexp.scoring.texts import Rouge

    return Rouge(stemmer).compute(predictions=[prediction], references=[reference])


def test_rouge_by_hand():
    # 4 words against 6: 4 in common, pair "a storm" of 3 and 5 pairs, longest common subsequence 4
    scores = rouge("a storm left homes", "A storm has left 19 homes")
    assert scores == pytest.approx({"rouge1": 8 / 10, "rouge2": 2 / 8, "rougeL": 8 / 10})
    assert rouge("", "words") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_the_stemmer_matters_and_is_on():
    assert rouge("storms closing", "storm closed")["rouge1"] == 1
    assert rouge("storms closing", "storm closed", stemmer=False)["rouge1"] == 0


def test_rouge_is_an_evaluate_metric():
    import evaluate

    from specexp.scoring.texts import Rouge

    metric = Rouge()
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=["one two", "three"], references=["one two", "four"])
    assert metric.compute()["rouge1"] == pytest.approx(0.5)
