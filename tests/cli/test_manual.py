"""`--help`: the choices that exist, at once."""

import sys
from pathlib import Path

import pytest
from options import OPTIONS

import specexp.cli.jobs
import specexp.cli.main
from specexp.cli.manual import COMMANDS, manual, method_table, methods
from specexp.cli.plugins import conf_directory


def test_every_option_is_listed_and_nothing_else():
    text = manual([Path(conf_directory())])
    listed = text[text.index("Groups:") : text.index("Settings:")].replace(",", " ").split()
    assert {option for _, option in OPTIONS} | {group for group, _ in OPTIONS} <= set(listed)
    assert not [word for word in listed if word.startswith("_")]
    assert max(map(len, text.splitlines())) <= 132


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_composes_nothing(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["specexp", "method=speculative", flag])
    monkeypatch.setattr(specexp.cli.jobs, "main", lambda: pytest.fail("composed"))
    specexp.cli.main.cli()
    shown = capsys.readouterr().out
    assert all(f"\n  {name:<12}{line}\n" in shown for name, (_, line) in COMMANDS.items())


def test_the_page_of_methods_holds_the_list_that_is_made_from_their_docstrings():
    """To bring the page up to date, put what `method_table` gives between its two marks."""
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- methods -->\n")[2].partition("\n<!-- /methods -->")[0]
    assert listed == method_table([Path(conf_directory())])


def test_every_method_says_what_it_does():
    found = methods([Path(conf_directory())])
    assert set(found) == {option for group, option in OPTIONS if group == "method"}
    assert all(text.endswith((".", ").")) and len(text) < 200 for text in found.values()), found


def test_a_method_whose_module_is_missing_has_an_empty_line(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "odd.yaml").write_text("# Odd.\n_target_: no.such.module.odd\nname: odd\n")
    assert methods([tmp_path]) == {"odd": ""} and "\n  odd" in manual([tmp_path])
