"""`--help`: the choices that exist, at once."""

import sys
from pathlib import Path

import pytest
from options import OPTIONS

import specexp.cli.jobs
import specexp.cli.main
from specexp.cli.manual import COMMANDS, manual
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
