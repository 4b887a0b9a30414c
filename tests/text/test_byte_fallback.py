"""Streams and stop strings where characters are spelled byte by byte, and where a tokenizer is written in Python."""

import pytest
from byte_fallback import BYTES, FIRST_WORD, KINDS, SPECIAL, WORDS, byte_fallback_tokenizer, spelled, word
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, ByT5Tokenizer

from specexp.assets import asset_path
from specexp.text.stopping import Detokenizer, Stopping

FALLBACK = byte_fallback_tokenizer()
PYTHON = ByT5Tokenizer()  # one id for each byte; what is no character is left out
BYTE_LEVEL = AutoTokenizer.from_pretrained(asset_path("asset:tiny/target"))
PLENTY = settings(max_examples=150, deadline=None)
STOPS = ("😀", "你a", "a b", "\ndef", "é", "A", " a", "ab\n", "你😃")

lone_byte = st.integers(0, 255).map(lambda byte: [byte + len(SPECIAL)])
characters = st.sampled_from(["😀", "😃", "你", "é", "\n", "A"]).map(spelled)
halves = st.sampled_from(["😀", "你"]).flatmap(lambda text: st.integers(1, 2).map(lambda cut: spelled(text)[:cut]))
words = st.integers(FIRST_WORD, FIRST_WORD + len(WORDS) - 1).map(lambda token: [token])
specials = st.integers(0, len(SPECIAL) - 1).map(lambda token: [token])


def joined(parts):
    return [token for part in parts for token in part]


fallback_ids = st.lists(st.one_of(characters, words, characters, halves, lone_byte, specials), max_size=14).map(joined)
byte_level_ids = st.lists(st.integers(0, min(600, len(BYTE_LEVEL) - 1)), max_size=30)
python_characters = st.sampled_from(["😀", "你a", "é"]).map(lambda text: [byte + 3 for byte in text.encode()])
python_ids = st.lists(st.one_of(python_characters, st.integers(0, 258).map(lambda token: [token])), max_size=14).map(joined)


def pieces(stopping, opening, ids):
    text = Detokenizer(stopping, opening)
    return [text.feed(token) for token in ids] + [text.finish()]


def assert_pieces_make_the_text(tokenizer, opening, ids):
    stopping = Stopping(tokenizer)
    assert "".join(pieces(stopping, opening, ids)) == stopping.text(opening, ids)


def assert_stop_found(tokenizer, ids, stop, sizes):
    """At the first token with which the decoded text holds it, whatever the rounds."""
    stopping = Stopping(tokenizer, (), (stop,))
    first = next((n for n in range(1, len(ids) + 1) if stop in stopping.decode(ids[:n])), None)
    found, at, turn = None, 0, 0
    while found is None and at < len(ids):
        size = sizes[turn % len(sizes)]
        found = stopping(ids[: at + size], at)
        at, turn = at + size, turn + 1
    assert (found and found.keep) == first


@given(fallback_ids, fallback_ids)
@PLENTY
def test_pieces_make_the_text_with_byte_fallback(opening, ids):
    assert_pieces_make_the_text(FALLBACK, opening, ids)


@given(byte_level_ids, byte_level_ids)
@PLENTY
def test_pieces_make_the_text_with_byte_level_tokens(opening, ids):
    assert_pieces_make_the_text(BYTE_LEVEL, opening, ids)


@given(python_ids, python_ids)
@PLENTY
def test_pieces_make_the_text_of_a_tokenizer_written_in_python(opening, ids):
    assert_pieces_make_the_text(PYTHON, opening, ids)


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(fallback_ids, st.sampled_from(STOPS), SIZES)
@PLENTY
def test_stop_strings_are_found_with_byte_fallback(ids, stop, sizes):
    assert_stop_found(FALLBACK, ids, stop, sizes)


@given(python_ids, st.sampled_from(STOPS), SIZES)
@PLENTY
def test_stop_strings_are_found_with_a_tokenizer_written_in_python(ids, stop, sizes):
    assert_stop_found(PYTHON, ids, stop, sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_stops_of_every_way_to_decode(kind):
    tokenizer = byte_fallback_tokenizer(kind)

    @given(fallback_ids, fallback_ids, st.lists(st.sampled_from(STOPS), max_size=2, unique=True), SIZES)
    @settings(max_examples=60, deadline=None)
    def check(opening, ids, stops, sizes):
        stopping = Stopping(tokenizer, (), stops)
        assert "".join(pieces(stopping, opening, ids)) == stopping.text(opening, ids)
        ends = stopping.ends(ids, stopping.decode(ids))
        assert ends == sorted(ends) and len(ends) == len(ids) and max(ends, default=0) <= len(stopping.decode(ids))
        for stop in stops:
            assert_stop_found(tokenizer, ids, stop, sizes)

    check()


@pytest.mark.parametrize("stop", ["😃", "😄", "😃😄", "😂a"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_stop_string_is_found_at_every_place_of_a_run_of_bytes(stop, size):
    for before in range(12):
        ids = [word("a"), *spelled("😀" * before), *spelled("😃😄😂"), word("a"), word("b")]
        assert_stop_found(FALLBACK, ids, stop, [size])


def test_ids_without_text_do_not_hide_a_stop_string():
    ids = [word("a"), word("a"), *([1] * 20), word("b"), word("f")]
    cut = Stopping(FALLBACK, (), ("ab",))(ids, len(ids) - 2)
    assert cut.keep == len(ids) - 1


def test_emoji_in_a_row_stream_whole():
    found = pieces(Stopping(FALLBACK), [word("a")], [*spelled("😀😃😄"), word("▁a"), word("b")])
    assert "".join(found) == "😀😃😄 ab" and not any("\ufffd" in piece for piece in found)
    assert found[-3:] == ["😀😃😄 a", "b", ""]  # bytes that follow could still undo the characters before them


@given(st.text(st.sampled_from("ab😀你é\n d"), min_size=1, max_size=20))
@PLENTY
def test_whole_characters_are_those_of_tokenizers_own_stream(text):
    opening, ids = BYTE_LEVEL("# x")["input_ids"], BYTE_LEVEL(text, add_special_tokens=False)["input_ids"]
    stream = DecodeStream(ids=opening, skip_special_tokens=True)
    theirs = [stream.step(BYTE_LEVEL.backend_tokenizer, token) or "" for token in ids]
    assert pieces(Stopping(BYTE_LEVEL), opening, ids)[:-1] == theirs


def test_a_long_run_and_a_long_prompt_cost_little():
    lengths = []

    class Counting(Stopping):
        def decode(self, ids):
            lengths.append(len(ids))
            return super().decode(ids)

    text = Detokenizer(Counting(FALLBACK), [word("a")] * 5000)
    for token in [*spelled("😀" * 500), *([word("a")] * 50)]:
        text.feed(token)
    assert sum(lengths) < 20_000 and len(BYTES) == 256
