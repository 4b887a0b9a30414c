"""`specexp COMMAND`: which command a line calls, and that all of them end alike."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import specexp
from specexp.cli import main as front
from specexp.cli.manual import COMMANDS
from specexp.errors import CommandParser, Ended, UserError, ending

ROOT = Path(specexp.__file__).parent.parent


@pytest.fixture
def called(monkeypatch, capfd, tmp_path):
    """called(*arguments) -> (exit code, standard output, standard error) of `specexp ARGUMENTS`, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["specexp", *arguments])
        capfd.readouterr()
        try:
            front.cli()
        except SystemExit as end:
            return end.code, *capfd.readouterr()
        return 0, *capfd.readouterr()

    return call


@pytest.fixture
def noted(monkeypatch):
    """Instead of running a command, the module and the arguments that it would have had are noted."""
    calls = []
    monkeypatch.setattr(front, "import_module", lambda module: type("Module", (), {"cli": lambda: calls.append((module, sys.argv[1:]))}))
    return calls


@pytest.mark.parametrize(
    ("arguments", "command", "left"),
    [
        ([], "run", []),
        (["method=csd"], "run", ["method=csd"]),
        (["-m", "seed=1,2"], "run", ["-m", "seed=1,2"]),
        (["run", "method=csd"], "run", ["method=csd"]),
        (["+a.b=1"], "run", ["+a.b=1"]),
        (["~method.gamma"], "run", ["~method.gamma"]),
        (["outputs/x"], "run", ["outputs/x"]),
        *[([name, "a"], name, ["a"]) for name in COMMANDS],
    ],
)
def test_which_command_is_called(noted, called, arguments, command, left):
    assert called(*arguments)[0] == 0 and noted == [(COMMANDS[command][0], left)]


def test_every_command_has_its_function():
    assert all(callable(import_module(module).cli) for module, _ in COMMANDS.values())


def test_a_misspelt_command_names_the_nearest(called):
    code, _, errors = called("reprot", "outputs/x")
    assert code == 1 and errors.startswith("specexp: reprot is neither a command (did you mean report?) nor KEY=VALUE; the commands are run, report,")
    assert "quotes" not in errors and errors.count("\n") == 1


def test_a_command_in_a_later_place_is_told_where_it_stands(called):
    code, _, errors = called("run", "report", "outputs/x")
    assert code == 1 and errors == "specexp: report is not KEY=VALUE; a command is the first word: specexp report.\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(called, command):
    code, shown, errors = called(command, "--help")
    assert code == 0 and "specexp" in shown and errors == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "nowhere"], "specexp report: nowhere is not a directory"),
        (["report", "compare", "nowhere"], "specexp report: nowhere holds no records.jsonl"),
        (["chat", "method.gama=3"], "specexp chat: the configuration has no key method.gama"),
        (["chat", "--script", "nowhere"], "specexp chat: --script nowhere is no file"),
        (["chat", "--script", "latin"], "specexp chat: --script latin cannot be read (line 1 has the byte 0xe9, which is not UTF-8)"),
        (["chat", "--script"], "specexp chat: argument --script: expected one argument"),
        (["serve", "method=nothing"], "specexp serve: method=nothing does not exist"),
        (["perplexity", "max_tokens=1", "hydra.run.dir=p"], "specexp perplexity: max_tokens=1 does not fit"),
        (["medusa", "--heads", "0"], "specexp medusa: the following arguments are required: --target, --out"),
        (["medusa", "--target", "a", "--out", "b", "--heads", "0"], "specexp medusa: --heads 0 does not fit"),
        (["tables", "--tokenizer", "a", "--out", "b", "nowhere"], "specexp tables: "),
        (["report", "x\udcff"], "specexp report: argument 1 of the command line has half a character ('\\udcff' at place 1)"),
        (["tables", "--tokenizer", "\udcff"], "specexp tables: argument 2 of the command line has half a character"),
        (["medusa", "--target", "\udcff"], "specexp medusa: argument 2 of the command line has half a character"),
        (["chat", "dataset.name=\udcff"], "specexp chat: argument 1 of the command line has half a character"),
        (["run", "method=nothing"], "specexp: method=nothing does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_every_command_fails_in_one_sentence(called, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    code, shown, errors = called(*arguments)
    assert code == 1 and shown == "" and errors.startswith(sentence) and errors.count("\n") == 1 and errors.endswith(".\n")


@pytest.mark.parametrize(
    ("command", "place"),
    [("report", "specexp.report.tables.main"), ("medusa", "specexp.medusa.__main__.parse"), ("tables", "specexp.tables.__main__.parse"), ("run", "specexp.cli.jobs.main"),
     ("chat", "specexp.chat.__main__.main"), ("serve", "specexp.serve.__main__.main"), ("perplexity", "specexp.perplexity.__main__.main")],
)
def test_every_command_is_interrupted_alike(called, monkeypatch, command, place):
    monkeypatch.setattr(place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, errors = called(command)
    name = "specexp" if command == "run" else f"specexp {command}"
    assert code == 130 and errors.startswith(f"{name}: interrupted") and errors.count("\n") == 1


def test_a_defect_keeps_its_traceback_in_every_command():
    with pytest.raises(ZeroDivisionError), ending("specexp report"):
        _ = 1 / 0
    with pytest.raises(BrokenPipeError), ending("specexp serve"):  # of a connection, not of our output
        raise BrokenPipeError


def test_a_value_of_several_lines_is_told_on_one(capfd):
    with pytest.raises(Ended, match="a.nb"), ending("specexp x"):
        raise UserError("a\nb")
    assert capfd.readouterr().err == "specexp x: a\\nb\n"


def test_a_parser_refuses_like_everything_else():
    with pytest.raises(UserError, match="unrecognized arguments: x; specexp x --help shows what can be given"):
        CommandParser("specexp x").parse_args(["x"])


def test_a_report_of_what_cannot_be_read_is_one_sentence(called, monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("specexp.report.tables.main", refuse)
    assert called("report", "x") == (1, "", "specexp report: cannot read or write somewhere (Permission denied).\n")


def started(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stderr=subprocess.PIPE, **options)


def test_output_that_nobody_reads_any_more_ends_quietly(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with started("specexp", "--help", stdout=writing, cwd=tmp_path) as process:
        os.close(writing)
        assert process.stderr.read() == ""
    assert process.returncode != 0


def completed(line, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COMP_LINE": line, "COMP_POINT": str(len(line))}
    program = "import sys; sys.argv[0] = 'specexp'; from specexp.cli.main import cli; cli()"
    return subprocess.run([sys.executable, "-c", program, "-sc", "query=bash"], cwd=cwd, env=environment, text=True, capture_output=True, check=True).stdout.split()


def test_the_shell_completes_commands_groups_and_keys(tmp_path):
    (tmp_path / "mine" / "sampling").mkdir(parents=True)
    (tmp_path / "mine" / "sampling" / "hot.yaml").write_text("# Mine.\nname: hot\n")
    first = completed("specexp me", tmp_path)
    assert "medusa" in first and "method=" in first and "report" not in first
    assert {"sampling=greedy", "sampling=hot"} <= set(completed("specexp --config-dir mine sampling=", tmp_path))
    assert "server.port=" in completed("specexp serve server.", tmp_path)
    assert completed("specexp report out", tmp_path) == []


def test_a_reader_that_has_ended_ends_the_command(monkeypatch, capsys):
    monkeypatch.setattr("specexp.errors._output_is_open", lambda: False)
    with pytest.raises(Ended, match="the program that reads the output has ended"), ending("specexp report"):
        raise BrokenPipeError
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("specexp.errors._output_is_open", lambda: True)
    with pytest.raises(BrokenPipeError), ending("specexp report"):
        raise BrokenPipeError
