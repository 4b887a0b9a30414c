"""Stop ids and stop strings: the first by position wins, whatever the rounds were."""

import random

import pytest
from letters import Letters, ids

from specexp.text.stopping import Stopping


def ended(stopping, text, sizes):
    """Feed the text in rounds of the given sizes, as a decoder would, until it is cut."""
    generated = []
    for size in sizes:
        since = len(generated)
        generated += ids(text[since : since + size])
        if (cut := stopping(generated, since)) is not None:
            return cut
    return None


@pytest.mark.parametrize(
    ("text", "keep", "finish"),
    [
        ("abc\ndef g", 7, "stop"),
        ("ab$c\ndef", 3, "eos"),
        ("abc\ndef$", 7, "stop"),
        ("abc", None, None),
        ("#abc$", 1, "stop"),
        ("a##$", 2, "stop"),
    ],
)
def test_first_by_position_wins_for_every_split_into_rounds(text, keep, finish):
    rng = random.Random(text)
    stopping = Stopping(Letters(), {ord("$")}, ("\ndef", "#"))
    for _ in range(50):
        sizes = [rng.randrange(1, 6) for _ in text]
        cut = ended(stopping, text, sizes)
        assert (cut and (cut.keep, cut.finish)) == (keep and (keep, finish))


def test_the_token_that_completes_the_stop_is_kept_and_the_text_cut_before_it():
    stopping = Stopping(Letters(), (), ("\ndef",))
    generated = ids("  return 1\n\n\ndef f")
    cut = stopping(generated, 0)
    assert cut.keep == len("  return 1\n\n\ndef")
    assert stopping.text(ids("prompt"), generated[: cut.keep]) == "  return 1\n\n"


def test_a_long_text_costs_no_more_than_a_short_one():
    decoded = []

    class Counting(Letters):
        def decode(self, ids, **_):
            decoded.append(len(ids))
            return super().decode(ids)

    stopping = Stopping(Counting(), (), ("\ndef",))
    text = ids("x" * 5000)
    assert stopping(text, 4995) is None
    assert max(decoded) < 20


class Pieces:
    """Like SentencePiece: a leading space is dropped at the start of what is decoded."""

    def decode(self, ids, **_):
        return "".join(["a", "   b", " c"][i] for i in ids).removeprefix(" ")


def test_leading_spaces_survive():
    assert Stopping(Pieces()).text([0], [1, 2]) == "   b c"


class Fragments:
    """Ids are pieces of text; as sentencepiece does, the first piece of a text loses its leading space."""

    pieces = ("\n", "de", "f", "def", " def", "x", "\ndef g", "e", "d", " ", "def x", "ef")
    decoded = 0

    def decode(self, ids, **_):
        self.decoded += 1
        return "".join(self.pieces[i] for i in ids).removeprefix(" ")

    def convert_ids_to_tokens(self, token):
        return self.pieces[token]


@pytest.mark.parametrize("stop", ["\ndef", "def ", " def", "f", "x\n"])
def test_a_stop_is_found_wherever_the_tokens_break(stop):
    """Against decoding all of the text after every token. One `Stopping` for all texts: what it remembers holds for each."""
    rng, stopping = random.Random(stop), Stopping(Fragments(), (), (stop,))
    for _ in range(300):
        ids = [5, *(rng.randrange(len(Fragments.pieces)) for _ in range(12))]
        first = next((n for n in range(1, len(ids) + 1) if stop in Fragments().decode(ids[:n])), None)
        found, at = None, 0
        while found is None and at < len(ids):
            size = rng.randrange(1, 4)
            found = stopping(ids[: at + size], at)
            at += size
        assert (found and found.keep) == first


def test_nothing_is_decoded_again_where_no_stop_can_end():
    tokenizer = Fragments()
    stopping = Stopping(tokenizer, (), ("\ndef",))
    ids = [5, 9, 5, 9] * 50
    stopping(ids, 0)
    known = tokenizer.decoded
    for since in range(0, len(ids), 4):
        assert stopping(ids, since) is None
    assert tokenizer.decoded == known == 3  # each id alone, and the space once more: alone it shows nothing
