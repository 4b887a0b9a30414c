"""Text handed out token by token is exactly the text of all tokens, and none of it is ever taken back."""

import random

import pytest
from transformers import AutoTokenizer

from specexp.assets import asset_path
from specexp.text.stopping import Detokenizer, Stopping

TEXTS = ("def f(x):\n    return x\n\n\ndef g", "naïve 日本語 🙂🙃 déjà", "  spaces   and\ttabs", "a\n\nb\n\nc")


@pytest.fixture(scope="module", params=["asset:tiny/target", "asset:tiny_t5/target"])
def tokenizer(request):
    return AutoTokenizer.from_pretrained(asset_path(request.param))


def pieces(stopping, opening, ids):
    text = Detokenizer(stopping, opening)
    return [text.feed(token) for token in ids] + [text.finish()]


def shown(tokenizer, opening, ids, *stops):
    """What is handed out for ids that end where the decoder would end them."""
    stopping = Stopping(tokenizer, (), stops)
    cut = next((cut for i in range(len(ids)) if (cut := stopping(ids[: i + 1], i))), None)
    ids = ids if cut is None else ids[: cut.keep]
    found = pieces(stopping, opening, ids)
    assert "".join(found) == stopping.text(opening, ids)
    return found


@pytest.mark.parametrize("stops", [(), ("\n\n",), ("\ndef", "\n\n\n"), ("語", "return x\n")])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_the_text(tokenizer, text, stops):
    opening = tokenizer("# begin\n")["input_ids"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = shown(tokenizer, opening, ids, *stops)
    assert not any(stop in "".join(found) for stop in stops)
    assert not any("\ufffd" in piece for piece in found)


def test_pieces_make_the_text_of_any_ids(tokenizer):
    """Halves of characters and special tokens among them."""
    draws = random.Random(0)
    for _ in range(60):
        ids = [draws.randrange(300 if draws.random() < 0.7 else len(tokenizer)) for _ in range(draws.randint(1, 30))]
        shown(tokenizer, ids[:3], ids, *draws.choice([(), ("e",), ("\n", "th"), ("re", "er")]))


def test_text_comes_as_soon_as_it_is_certain(tokenizer):
    opening, ids = tokenizer("x")["input_ids"], tokenizer("one two three four", add_special_tokens=False)["input_ids"]
    found = pieces(Stopping(tokenizer), opening, ids)
    assert all(found[:-1]) and found[-1] == ""


def test_what_may_become_a_stop_string_is_held_back():
    stopping = Stopping(None, (), ("\nclass", "END"))
    assert [stopping.pending(text) for text in ("abc", "abc\n", "abc\ncl", "abc\nclx", "xEN", "aENDb", "a\nclass b")] == [0, 1, 3, 0, 2, 4, 8]
