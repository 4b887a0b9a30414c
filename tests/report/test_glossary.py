"""Every figure that a run can leave and every column and row of a table is explained, and nothing else is."""

import html
import json
import re
from pathlib import Path

import pytest
import running
from report_runs import records, write_run
from sides import record, side

from specexp.datasets.answers import KINDS, Answers
from specexp.datasets.humaneval import HumanEval
from specexp.experiment.perplexity import COLUMNS as PERPLEXITY
from specexp.experiment.places import speculation_figures
from specexp.figures.record import Record, Repeat, SideRecord
from specexp.figures.served import served_figures
from specexp.figures.speed import summarise_speed
from specexp.report import columns, glossary, table
from specexp.report.__main__ import main
from specexp.report.explain import explained
from specexp.report.formats import page
from specexp.report.rows import SETTING, make_rows
from specexp.report.runs import find_runs

DOCS = Path(__file__).parent.parent.parent / "docs"


def made_by_hand():
    """Figures of records in which everything happens: trees, cascades, length rules, a further baseline."""
    cascade = side(5, rounds=[[3, 3]], origins=["target", "draft:csd", "draft", "bonus", "resample"], entropies=[0.5])
    tree = side(9, rounds=[[12, 3, 3, 8, 0], [4, 1]], kv_bytes_draft=3)
    made = [record(str(i), method, side(9), baseline_captured=side(9)) for i, method in enumerate((cascade, tree))]
    return made, summarise_speed(made)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The summary that a job wrote."""
    place = tmp_path_factory.mktemp("run")
    running.run(running.composed("cost_curve=true"), place)
    return json.loads((place / "summary.json").read_text())


def possible(real, place):
    """Every key that anything writes."""
    made, figures = made_by_hand()
    speculation = {"method": "x", "num_spec_steps": 1, "num_draft_tokens": 2, "num_accepted_draft_tokens": 1}
    served = [Record("a", 0, "p", (), {"method": SideRecord((Repeat(1, 1, 0, 0, 0.1, 0.1),), "", "stop", speculation=speculation)})]
    write_run(place / "run")
    rows = make_rows(find_runs([place]))
    keys = {*real, *figures, *explained(made, None), *speculation_figures(served), *served_figures(served), *PERPLEXITY, *KINDS, "num_errors", "accuracy", "pass_at_10"}
    keys |= {key for row in rows for key in row if not key.startswith(SETTING)}
    return keys | {column.key for column in columns.COLUMNS} | {row.key for _, some in table.SECTIONS for row in some}


def test_every_key_has_an_entry_and_every_entry_a_key(real, tmp_path):
    keys = possible(real, tmp_path)
    assert not sorted(key for key in keys if glossary.meaning(key) is None)
    own = {glossary.entry_of(key) for key in keys}
    assert not sorted(set(glossary.MEANINGS) - own)


def test_keys_of_data_sets_are_these():
    assert "pass_at_1_raw" in HumanEval.metrics.__doc__ and KINDS == ("rouge1", "rouge2", "rougeL")
    assert set(Answers.metrics(None, [[{"correct": True}]])) == {"accuracy"}


def test_every_label_of_a_table_belongs_to_an_entry():
    assert set(glossary.shown_as()) <= set(glossary.MEANINGS)
    labels = {label for some in glossary.shown_as().values() for label in some}
    assert {"95 % interval", "T/round", "alpha", "oracle draft lengths", "nats per token", "KV cache, target"} <= labels


def test_a_key_may_name_a_baseline():
    assert glossary.meaning("baseline_tpot") == f"Of the baseline. {glossary.MEANINGS['tpot']}" == glossary.meaning("baseline_captured_tpot")
    assert glossary.meaning("speedup_low_vs_captured") == f"{glossary.MEANINGS['speedup_low']} Against captured."
    assert glossary.meaning("conditional_acceptance_rate_12") == glossary.MEANINGS["conditional_acceptance_rate_K"]
    for unknown in ("method.gamma", "tpots", "baseline_tpots", "speed_vs_captured", "gamma_histogram_x", "setting dtype"):
        assert glossary.meaning(unknown) is None


def test_every_sentence_is_one():
    assert not [key for key, text in glossary.MEANINGS.items() if not (text[0].isupper() or text[0] in "\"cvα") or not text.endswith(".") or "|" in text]


def test_the_page_of_the_documentation_is_the_commands(capsys):
    main(["glossary"])
    assert capsys.readouterr().out == (DOCS / "glossary.md").read_text()


def test_the_page_of_a_report_explains_its_columns(tmp_path):
    write_run(tmp_path / "run", made=records(4, 6))
    runs = find_runs([tmp_path])
    heads = dict(re.findall(r'<th scope="col"[^>]* title="([^"]*)">([^<]*)</th>', page(runs, make_rows(runs), [], {})))
    heads = {head: html.unescape(text) for text, head in heads.items()}
    assert heads["95 % interval"] == glossary.MEANINGS["speedup_low"] and heads["T/round"] == glossary.MEANINGS["tokens_per_emission"]
    assert {column.head for column in columns.visible(make_rows(runs))} == set(heads)
