"""Comparing runs that lack what is compared: a row says what is not known, and nothing is NaN."""

import json

import pytest
from report_runs import records, write_run
from sides import alone, changed

from specexp.report.__main__ import main
from specexp.report.compare import compare


def told(capsys, *arguments):
    main([str(argument) for argument in arguments])
    text = capsys.readouterr().out
    assert "nan" not in text.lower() and "inf" not in text.lower()
    return " ".join(text.split())


def in_one_piece(made):
    """As beam search leaves it: every token comes at the end."""
    return [changed(record, "method", rounds=[], first_tokens=7, ttft_seconds=0.5, decode_seconds=0.0) for record in made]


def sides(made):
    return [(record.id, record.method, record.baseline) for record in made]


def test_a_run_that_gives_its_text_in_one_piece_is_compared_by_whole_requests(tmp_path, capsys):
    write_run(tmp_path / "beam", method="beam", made=in_one_piece(records(4, 6)))
    write_run(tmp_path / "b", made=records(4, 6))
    own = told(capsys, "compare", tmp_path / "beam")
    assert "so whole requests are compared, prefill included" in own and "14.00 tok/s" in own and "11.48 tok/s" in own  # 7 / 0.5 and 7 / 0.61
    pair = told(capsys, "compare", tmp_path / "beam", tmp_path / "b")
    assert "so whole requests are compared" in pair and "speedup" in pair and "1.22x" in pair


@pytest.mark.parametrize(("values", "sentence"), [
    ({"decode_seconds": 0.0}, "nothing was timed"),
    ({"token_ids": [5], "rounds": [], "origins": ["target"], "decode_seconds": 0.0}, "no text has a token after its first"),
    ({"token_ids": [], "rounds": [], "origins": [], "decode_seconds": 0.0, "ttft_seconds": 0.0}, "no text has a token after its first"),
])  # fmt: skip
def test_what_was_not_timed_is_not_compared_and_says_so(tmp_path, capsys, values, sentence):
    for name in "ab":
        write_run(tmp_path / name, made=[changed(record, "method", "baseline", **values) for record in records(4, 6)])
    for arguments in ((tmp_path / "a",), (tmp_path / "a", tmp_path / "b")):
        text = told(capsys, "compare", *arguments)
        assert sentence in text and "0.0000" not in text


def test_one_of_two_runs_without_a_baseline_is_compared_by_throughput_and_said(tmp_path, capsys):
    write_run(tmp_path / "a", made=list(map(alone, records(4, 6))))
    write_run(tmp_path / "b", made=records(4, 6))
    text = told(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert "throughput" in text and "1.000 times" in text and "only one of the runs has a baseline" in text


@pytest.mark.parametrize("count", [1, 2, 5])
def test_with_few_examples_no_difference_can_be_seen_and_that_is_said(count):
    rows = {row.figure: row for row in compare(sides(records(2, count)), sides(records(8, count, lambda i: False)))}
    assert rows["passed"].remark == f"with {count} example{'s' * (count > 1)} no difference could have had p below 0.05; that takes 6"
    assert rows["passed"].p == pytest.approx(2 / 2**count if count > 1 else 1.0)


def test_no_remark_speaks_of_more_than_all_the_points_there_are():
    for count in (6, 7, 30):
        rows = {row.figure: row for row in compare(sides(records(2, count)), sides(records(8, count, lambda i: False)))}
        points = float(rows["passed"].remark.split()[2])
        assert 0 < points <= 100


def test_scores_that_only_some_examples_have_are_compared_on_those(tmp_path):
    def scored(values):
        scores = [{} if value is None else {"rouge1": value} for value in values]
        return [changed(record, "method", score=score) for record, score in zip(records(4, len(values)), scores, strict=True)]

    a, b = scored([0.5, None, 0.25, float("nan"), 1.0]), scored([0.25, 0.5, 0.25, 0.5, None])
    [_, row] = compare(sides(a), sides(b))
    assert (row.a, row.b, row.difference) == ("0.3750", "0.2500", "+0.1250") and row.p == 1.0
    assert row.remark == "2 of 5 examples have this score on both sides"
    [_, none] = compare(sides(scored([None, 1.0])), sides(scored([1.0, None])))
    assert none.p is None and none.a == none.b == "" and none.remark == "no example has this score on both sides"


def test_without_any_record_that_is_said(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    (tmp_path / "b" / "records.jsonl").write_text("")
    for arguments in (["a", "b"], ["b"]):
        with pytest.raises(SystemExit, match=r"b holds no records yet"):
            main(["compare", *(str(tmp_path / name) for name in arguments)])


def test_a_baseline_that_some_records_lack_is_compared_where_it_is(tmp_path, capsys):
    made = records(4, 6)
    made[5] = alone(made[5])
    write_run(tmp_path / "a", made=records(4, 6))
    (tmp_path / "a" / "records.jsonl").write_text("".join(json.dumps(record.to_json()) + "\n" for record in made))
    assert "5 examples" in told(capsys, "compare", tmp_path / "a")
