"""What is said below a table follows from the facts of a summary, and from nothing else."""

import pytest
from rich.console import Console

from specexp.report.remarks import CARE, DANGER, PLAIN, remarks
from specexp.report.table import render

CALM = {"num_examples": 8, "speedup": 2.0, "speedup_low": 1.8, "speedup_high": 2.2, "lossless": True, "cache_exact": True, "drafts": True, "temperature": 0.0}
CALM |= {"num_draft_tokens": 400, "draft_acceptance_rate": 0.7, "equal_texts": 1.0, "sandbox": "bubblewrap", "load_per_core": 0.9, "cpu_share": 0.97, "num_errors": 0, "weights": "real"}


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({"speedup": 0.5, "speedup_low": 0.4, "speedup_high": 0.6}, PLAIN, "Plain decoding is faster than this method"),
        ({"num_draft_tokens": 900, "draft_acceptance_rate": 0.004}, PLAIN, "almost never right (0.4 % of 900 tokens)"),
        ({"num_draft_tokens": 0, "draft_acceptance_rate": None}, PLAIN, "Nothing was drafted"),
        ({"equal_texts": 0.0, "temperature": 0.7}, PLAIN, "both sides draw at random"),
        ({"equal_texts": 0.9}, PLAIN, "differ by rounding"),
        ({"template_unused": True}, PLAIN, "dataset.prompt_format=chat"),
        ({"num_examples": 3, "speedup_low": None, "speedup_high": None}, PLAIN, "takes 5 prompts, and there are 3"),
        ({"load_per_core": 2.1}, CARE, "BUSY MACHINE: 2.1 processes per core"),
        ({"cpu_share": 0.31}, CARE, "BUSY MACHINE: decoding had only 31 %"),
        ({"num_errors": 2}, CARE, "UNANSWERED: 2 of the requests"),
        ({"unequal_repeats": 1}, CARE, "REPEATS DIFFER"),
        ({"weights": "standin"}, CARE, "STAND-INS"),
        ({"sandbox": "limits"}, CARE, "sandbox level limits, where it sees the user's files; `apt-get install bubblewrap`"),
        ({"lossless": False}, DANGER, "LOSSY"),
        ({"cache_exact": False}, DANGER, "CACHE NOT EXACT"),
    ],
)
def test_each_fact_has_its_sentence(facts, kind, words):
    assert remarks(CALM) == []
    [remark] = remarks(CALM | facts)
    assert words in remark.text and remark.kind == kind and remark.text.endswith(".")


@pytest.mark.parametrize(
    "facts",
    [
        {"speedup": 0.97, "speedup_low": 0.9, "speedup_high": 1.04},  # not told apart from plain decoding
        {"drafts": False, "num_draft_tokens": 0, "draft_acceptance_rate": None, "speedup": 0.99, "speedup_low": 0.98, "speedup_high": 0.995},
        {"num_draft_tokens": 20, "draft_acceptance_rate": 0.0},  # too few to say so
        {"lossless": None, "cache_exact": None, "equal_texts": 0.5},  # a server
    ],
)
def test_what_is_not_sure_is_not_said(facts):
    assert remarks(CALM | facts) == []


def test_the_summary_of_an_older_run_has_none():
    assert remarks({}) == []


def test_red_is_for_danger_alone():
    console = Console(width=200, force_terminal=True, color_system="standard", record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    render(CALM | {"lossless": False, "sandbox": "limits"}, console)
    shown = console.export_text(styles=True)
    assert "\x1b[1;31mLOSSY" in shown and "\x1b[33mNOT SEALED OFF" in shown
