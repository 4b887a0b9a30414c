"""The schema of records.jsonl: what is written is read again, what older runs lack has its default, and everything else is refused."""

import json
from dataclasses import replace
from math import isnan

import pytest
from sides import record, side

from specexp.figures.record import Record, SideRecord

OLDEST = {
    "token_ids": [5, 6, 7, 8], "text": "abcd", "finish": "length", "rounds": [[3, 1], [0, 0]], "first_tokens": 1, "origins": ["target"] * 4,
    "ttft_seconds": 0.1, "decode_seconds": 0.5, "target_seconds": 0.3, "draft_seconds": None, "score": {"passed": True},
}  # fmt: skip


def written(made):
    """As it stands on disk."""
    return json.loads(json.dumps(made.to_json()))


def test_what_is_written_is_read_again():
    full = side(
        9, rounds=[[12, 3, 3, 8, 0], [4, 1]], first_tokens=4, first_rounds=1, entropies=[0.5, None], ends=list(range(1, 10)),
        tree={"nodes": [1, 2], "parents": [-1, 0], "path": [0], "texts": {"nodes": ["a", "b"], "own": ["c"]}}, lossless=True,
        score={"passed": True, "error": "", "rouge1": 0.5}, draft_forwards_by_model={"big": 2, "small": 3},
    )  # fmt: skip
    served = replace(side(), token_ids=None, num_tokens=11, origins=(), rounds=(), chunks=11, began=7.5, speculation={"method": "x"})
    for made in (record("a", full, side(), baseline_captured=side()), record("b", served), replace(record("c", full), weights="standin")):
        assert written(Record.from_json(written(made))) == written(made)
    assert Record.from_json(written(record("a", full))).method == full


def test_an_older_runs_side_has_one_repeat():
    made = SideRecord.from_json(OLDEST)
    [repeat] = made.repeats
    assert (repeat.tokens, repeat.first_tokens, repeat.rounds, repeat.drafted) == (4, 1, 2, 3)
    assert (repeat.ttft_seconds, repeat.decode_seconds, repeat.target_seconds, repeat.draft_seconds) == (0.1, 0.5, 0.3, None)
    assert (made.first_rounds, made.entropies, made.compression_count, made.repeats_agree, made.lossless) == (0, None, 0, True, None)
    [repeat] = SideRecord.from_json(OLDEST | {"first_rounds": 1, "first_tokens": 2}).repeats
    assert (repeat.rounds, repeat.drafted, repeat.decoded_tokens) == (1, 0, 2)
    [repeat] = SideRecord.from_json(OLDEST | {"token_ids": None, "num_tokens": 6, "rounds": [], "chunks": 3}).repeats
    assert (repeat.tokens, repeat.rounds, repeat.drafted) == (6, 2, 0)
    assert made.draft_forwards == 0 and SideRecord.from_json(OLDEST | {"draft_forwards": 7}).draft_forwards == 7
    older = Record.from_json({"id": "a", "sample": 0, "prompt": "p", "method": OLDEST})
    assert (list(older.order), older.weights, older.baseline) == ([], "real", None)


def test_a_null_may_stand_for_nan_where_a_number_must_be():
    assert isnan(SideRecord.from_json(OLDEST | {"nll_sum": None}).nll_sum)


@pytest.mark.parametrize(("key", "value"), [
    ("token_ids", 3), ("token_ids", ["a"]), ("token_ids", [1.5]), ("token_ids", None), ("text", None), ("text", 4), ("finish", ["eos"]),
    ("rounds", None), ("rounds", [4, 2]), ("rounds", [[4]]), ("rounds", [[4, "2"]]), ("rounds", [[1, 1, 1, 1, 0, 0]]), ("first_rounds", True),
    ("origins", "target"), ("entropies", [[0.5]]), ("tree", []), ("score", None), ("draft_forwards_by_model", {"draft": None}),
    ("repeats", {}), ("repeats", [3]), ("repeats", [{"tokens": 3}]), ("repeats", None), ("ttft_seconds", "0.1"), ("kv_bytes_target", "many"),
])  # fmt: skip
def test_a_value_of_a_wrong_kind_is_told_with_its_side(key, value):
    with pytest.raises(ValueError, match=r"^(has \w+ of a wrong kind|lacks \w+) in 'baseline_x'$"):
        Record.from_json({"id": "a", "sample": 0, "prompt": "p", "method": OLDEST, "baseline_x": OLDEST | {key: value}})


@pytest.mark.parametrize("key", ["text", "finish", "token_ids", "ttft_seconds", "decode_seconds"])
def test_a_side_without_what_every_run_wrote_is_refused(key):
    with pytest.raises(ValueError, match=f"^lacks {key} in 'method'$"):
        Record.from_json({"id": "a", "sample": 0, "prompt": "p", "method": {name: value for name, value in OLDEST.items() if name != key}})


@pytest.mark.parametrize(("content", "sentence"), [
    ({}, "lacks id"), ({"id": "a", "sample": 0, "prompt": "p"}, "lacks method"), ({"id": 3, "sample": 0, "prompt": "p"}, "has id of a wrong kind"),
    ({"id": "a", "sample": "0", "prompt": "p"}, "has sample of a wrong kind"), ({"id": "a", "sample": 0, "prompt": "p", "method": []}, "has method of a wrong kind in 'method'"),
    ({"id": "a", "sample": 0, "prompt": "p", "order": "method", "method": OLDEST}, "has order of a wrong kind"),
])  # fmt: skip
def test_a_record_without_its_names_is_refused(content, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Record.from_json(content)
