"""How many tokens came first, and what is no decode speed: streams that were held up, in pieces of every size, on either side."""

import pytest
from streams import at_once, compared, read, text, usage, words

from specexp.peers.streams import Piece, first_tokens, moments_of, timed

STEADY, TOKEN = words(40), 0.02


@pytest.mark.parametrize("each", [1, 2, 3, 4, 5, 8, 10, 20])
def test_equal_speed_is_no_speedup_whatever_a_chunk_holds(monkeypatch, each):
    """Chunks that engines make (bursts), and chunks that a proxy sends on together."""
    steady = read(monkeypatch, *STEADY)
    assert steady.first_tokens == 1 and steady.decode_seconds / 39 == pytest.approx(TOKEN)
    for bunched in (read(monkeypatch, *words(40, each)), read(monkeypatch, *held(STEADY, each))):
        assert bunched.first_tokens == each
        for pair in (([bunched], [steady]), ([steady], [bunched])):
            assert compared(*pair)["speedup"] == pytest.approx(1.0, rel=0.01) and compared(*pair)["tpot"] == pytest.approx(TOKEN, rel=0.01)


def held(arrivals, each):
    """The same, of which `each` chunks arrive with the last of them, one right behind the other as they are read."""
    found = []
    for start in range(0, len(arrivals), each):
        some = arrivals[start : start + each]
        found += [(some[-1][0] + 0.00005 * place, chunk) for place, (_, chunk) in enumerate(some)]
    return found


@pytest.mark.parametrize("arrivals", [
    at_once(STEADY), held(STEADY, len(STEADY)), words(40, 40),
    [*held(STEADY[:30], 30), *[(0.603, chunk) for _, chunk in STEADY[30:]]],  # one flush that was read twice
    [(0.8 if place < 12 else 0.804, chunk) for place, (_, chunk) in enumerate(STEADY)],  # the smaller part first
])  # fmt: skip
def test_a_text_in_one_piece_has_no_decode_speed(monkeypatch, arrivals):
    piece, steady = read(monkeypatch, *arrivals), read(monkeypatch, *STEADY)
    assert piece.first_tokens == piece.completion_tokens == 40 and piece.repeat().rounds == 0
    for method, baseline in (([piece], [steady]), ([steady], [piece])):
        figures = compared(method, baseline)
        assert figures["speedup"] == pytest.approx(figures["e2e_speedup"]) and 0.7 < figures["speedup"] < 1.4
        assert None in (figures["tpot"], figures["baseline_tpot"])


def test_of_several_texts_those_in_one_piece_are_left_out_on_both_sides(monkeypatch):
    steady, slow = read(monkeypatch, *STEADY), read(monkeypatch, *words(40, every=0.04))
    piece = read(monkeypatch, *at_once(words(40, every=0.001)))
    figures = compared([steady, piece, steady], [slow, slow, slow])
    assert figures["speedup"] == pytest.approx(2.0) and figures["tpot"] == pytest.approx(TOKEN)
    figures = compared([steady, piece, piece], [slow, slow, slow])
    assert figures["speedup"] == pytest.approx(figures["e2e_speedup"])


def test_rounds_of_speculation_are_no_bursts(monkeypatch):
    """The prefill's token, then rounds of one to six tokens: the first text is one token, and the speedup is the true one."""
    lengths, so_far, arrivals = [4, 6, 1, 5, 6, 4, 3, 5, 2, 3], 1, [(0.5, text("The"))]
    for number, length in enumerate(lengths, 1):
        arrivals.append((0.5 + 0.03 * number, text("".join(f" w{n:02}" for n in range(so_far, so_far + length)))))
        so_far += length
    end = arrivals[-1][0]
    reply = read(monkeypatch, *arrivals, (end, text("", "stop")), (end, usage(40)))
    plain = read(monkeypatch, *words(40, every=0.03))
    assert reply.first_tokens == 1 and compared([reply], [plain])["speedup"] == pytest.approx(39 / 10)
    assert compared([reply], [plain])["tokens_per_emission"] == pytest.approx(3.9)


def test_a_long_prefill_is_no_proxy(monkeypatch):
    """Ten seconds of prefill, and then a token every five milliseconds."""
    arrivals = [(10 + 0.005 * n, text(f"w{n} ")) for n in range(24)]
    reply = read(monkeypatch, *arrivals, (10.12, text("", "stop")), (10.12, usage(24)))
    assert reply.first_tokens == 1 and len(reply.times) == 25


def test_a_server_that_counts_with_each_chunk_is_believed(monkeypatch):
    """vLLM's and SGLang's continuous_usage_stats."""
    counts = [3, 9, 10, 24]
    arrivals = [(0.1 * n, text("a long word " * (n == 1) + "x", usage={"prompt_tokens": 2, "completion_tokens": count})) for n, count in enumerate(counts, 1)]
    reply = read(monkeypatch, *arrivals, (0.5, text("", "stop", usage={"prompt_tokens": 2, "completion_tokens": 24})))
    assert reply.first_tokens == 3 and reply.completion_tokens == 24
    wrong = [(0.1 * n, text("word ", usage={"prompt_tokens": 2, "completion_tokens": 0})) for n in range(1, 5)]
    assert read(monkeypatch, *wrong, (0.5, text("", "stop")), (0.5, usage(4))).first_tokens == 1


def test_reasoning_that_a_server_hides_was_made_before_the_first_text(monkeypatch):
    hidden = usage(110, completion_tokens_details={"reasoning_tokens": 100})
    reply = read(monkeypatch, *[(2 + 0.02 * n, text(f"w{n} ")) for n in range(10)], (2.2, text("", "stop")), (2.2, hidden))
    assert reply.first_tokens == 101 and reply.repeat().decoded_tokens == 9
    shown = read(monkeypatch, *[(0.02 * n, {"choices": [{"delta": {"reasoning": f"w{n} "}}]}) for n in range(1, 111)], (2.2, text("", "stop")), (2.2, hidden))
    assert shown.first_tokens == 1


def test_first_tokens_and_moments_by_hand():
    pieces = lambda *sizes: [[Piece(0.1 * place, size, None)] for place, size in enumerate(sizes, 1)]
    assert first_tokens(pieces(15, 15), 10) == 5
    assert first_tokens(pieces(4, 20, 24, 18, 22), 25) == 1
    assert first_tokens(pieces(200, *[5] * 40), 80) == 40  # a flush of many, then one after another
    assert first_tokens(pieces(16, *[4] * 60), 61) == 1  # a long first token
    assert first_tokens(pieces(1, 1, 1), 9) == 1  # more tokens than bytes: most are not shown
    assert timed([], 3, 0, 0.5) == ((0.5, 0.5), 3)
    assert timed([Piece(0.1, 4, None)], 1, 0, 0.2) == ((0.1, 0.2), 1) and timed([], 0, 0, 0.2)[1] == 1
    fast = [Piece(0.003 + 0.0003 * n, 4, None) for n in range(20)]  # a small model: quick from the first token on
    assert len(moments_of(fast)) == 20
