"""The console without a terminal: every command does what help says, mistakes change nothing, text is the experiment's, tables are right."""

import codecs
import copy
import csv
import functools
import io
import json
import signal
from dataclasses import replace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from specexp.chat.commands import COMMANDS, methods, obey
from specexp.chat.session import Session, Settings, figures, from_command_line
from specexp.chat.terminal import CommandCompleter, History, RichView, converse, grouped, handles_of, perform, play, start, stoppable
from specexp.cli import jobs
from specexp.cli.jobs import build
from specexp.cli.messages import conf_directory
from specexp.cli.plugins import options
from specexp.decoding.sampling import GREEDY
from specexp.errors import UserError
from specexp.experiment.generation import generate
from specexp.report.papers import COLUMNS
from specexp.text.stopping import Stopping

PROMPT = "def add(a, b):\n"
NEVER = lambda: False


@pytest.fixture(scope="module", autouse=True)
def configuration():
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        yield


@functools.cache
def _composed(*overrides):
    return jobs.composed("chat", [*overrides, "threads=1"])


def composed(overrides):
    """Once for each list of overrides: it takes longest of all here."""
    return copy.deepcopy(_composed(*overrides))


@pytest.fixture(scope="module")
def first():
    """Built once: what it has opened is shared by the tests."""
    return Session(Settings(length=12), composed, build)


@pytest.fixture
def session(first):
    sides = dict(first._sides)
    yield first
    first._sides, first.settings, first.runs = sides, Settings(length=12), []


@pytest.fixture
def view(session):
    return RichView(Console(file=io.StringIO(), width=100, highlight=False), lambda token: session.sides[0].engine.tokenizer.decode([token]))


def told(view):
    return view.console.file.getvalue()


def side(session, name):
    return next(side for side in session.sides if side.name == name)


COMMAND_EFFECTS = [
    ("/debug", lambda s: s.settings.debug),
    ("/target", lambda s: s.settings.enabled == ("speculative",)),
    ("/drafter", lambda s: side(s, "drafter").decoder.target.model is not side(s, "target").decoder.target.model),
    ("/speculative", lambda s: s.settings.enabled == ("target",)),
    ("/ngram", lambda s: "NasdDrafter" in repr(type(side(s, "nasd").decoder.drafter))),
    ("/cache", lambda s: all(type(side.decoder.target).__name__ == "StatelessRunner" for side in s.sides)),
    ("/cache sink", lambda s: all(not side.decoder.target.cache_exact for side in s.sides)),
    ("/length 7", lambda s: s.settings.length == 7),
    ("/gamma 7", lambda s: side(s, "speculative").handles["gamma"] == 7),
    ("/processor topknucleus 0.7 5 0.8", lambda s: str(side(s, "speculative").sampling) == "Sampling(temperature=0.7, top_k=5, top_p=0.8)"),
    ("/seed 5", lambda s: s.settings.seed == 5),
    ("/method prompt_lookup gamma=3 max_ngram=2", lambda s: side(s, "prompt_lookup").handles["gamma"] == 3 and side(s, "prompt_lookup").handles["max_ngram"] == 2),
    ("/egag", lambda s: s.settings.enabled == ("target", "egag")),
]
NGRAM_EFFECTS = [
    ("/top_k_filler 3", lambda s: side(s, "nasd").decoder.drafter.top_k_filler == 3),
    ("/set_ngramstorage onelevel 3", lambda s: side(s, "nasd").handles["order"] == 3),
    ("/reset_in_between", lambda s: side(s, "nasd").decoder.drafter.reset_in_between is False),
]
EGAG_EFFECTS = [("/egag_gamma_min 2", "gamma_min", 2), ("/egag_gamma_max 5", "gamma_max", 5), ("/egag_ema 0.5", "ema", 0.5)]
SHOWN = {"/help", "/quit", "/clear", "/compare", "/save", "/chat"}  # tested below


@pytest.mark.parametrize(("line", "effect"), COMMAND_EFFECTS, ids=[line for line, _ in COMMAND_EFFECTS])
def test_command(session, line, effect):
    said = obey(session, line)
    assert said and effect(session)


def test_commands_of_the_n_gram_side(session):
    obey(session, "/ngram")
    for line, effect in NGRAM_EFFECTS:
        assert obey(session, line) and effect(session), line


def test_commands_of_the_entropy_guided_side(session):
    obey(session, "/egag")
    for line, key, value in EGAG_EFFECTS:
        assert obey(session, line) and side(session, "egag").handles[key] == value
    obey(session, "/egag")
    assert session.settings.enabled == ("target", "speculative")


def test_every_choice_of_the_configuration_can_be_chosen(session, view):
    assert COMMANDS["/cache"].choices == tuple(options("cache")) and set(options("sampling")) == set(COMMANDS["/processor"].choices)
    assert COMMANDS["/set_ngramstorage"].choices == tuple(options("storage"))
    texts = set()
    for name in sorted({"full", "static", *options("cache")} - {"compiled", "sink"}):
        assert obey(session, f"/cache {name}") == f"cache: {name}"
        texts.add(session.decode(PROMPT, view, NEVER)[0].side.text)
    assert len(texts) == 1


@pytest.mark.slow
def test_a_compiled_cache_can_be_chosen(session, view):
    whole = session.decode(PROMPT, view, NEVER)[0].side.text
    obey(session, "/cache compiled")
    assert session.decode(PROMPT, view, NEVER)[0].side.text == whole


def test_no_command_is_untested():
    tested = {line.split()[0] for line, *_ in COMMAND_EFFECTS + NGRAM_EFFECTS + EGAG_EFFECTS}
    assert tested | SHOWN == set(COMMANDS)


def test_help_lists_every_command_with_its_present_value(session, view):
    obey(session, "/gamma 9")
    perform(session, view, "/help", NEVER)
    lines = {line.split()[0]: line for line in told(view).splitlines() if line.startswith("/")}
    assert set(lines) == set(COMMANDS) and lines["/gamma"].rstrip().endswith(" 9") and lines["/target"].rstrip().endswith(" on")


MISTAKES = {
    "/gama 3": "/gama is no command (did you mean /gamma?)",
    "/gamma": "/gamma does not fit; give one whole number, 1 or more",
    "/length 0": "/length 0 does not fit",
    "/processor wild": "choose one of greedy, multinomial, topk",
    "/processor topk 1 two": "sampling.top_k",
    "/processor greedy 1": "/processor greedy takes no arguments",
    "/processor nucleus 1 2": "top_p=2",
    "/cache big": "choose one of compiled, full, none, sink, static",
    "/method": "NAME is one of",
    "/method speculativ": "/method speculativ does not exist",
    "/method endpoint": "/method endpoint does not exist",
    "/method nasd gama=3": "method.gama (did you mean method.gamma?)",
    "/method nasd three": "three is not KEY=VALUE",
    "/method egag gamma_min=9": "gamma_min=9",
    "/egag_ema": "egag's ema is one value",
    "/set_ngramstorage big": "choose one of basic, onelevel",
    "/chat": "no chat template",
    "/save runs.txt": "ends in .csv",
    "/save /nowhere/runs.csv": "there is no directory /nowhere",
    "/debug on": "takes no arguments",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_a_sentence_and_changes_nothing(session, line):
    before, sides = session.settings, session.sides
    with pytest.raises(UserError) as caught:
        obey(session, line)
    assert MISTAKES[line] in str(caught.value) and "\n" not in str(caught.value)
    assert session.settings == before and session.sides == sides


def test_every_side_gives_the_text_of_the_experiment(session, view):
    obey(session, "/method csd")
    runs = session.decode(PROMPT, view, NEVER)
    engine = session.sides[0].engine
    offline = generate(side(session, "target").decoder, engine.ids(PROMPT), 12, Stopping(engine.tokenizer, engine.stop_ids), GREEDY, (0,)).token_ids
    assert [run.name for run in runs] == ["target", "speculative", "csd"]
    assert all(run.side.token_ids == offline for run in runs)
    assert all(run.side.text in told(view) for run in runs)
    assert figures(runs[1:2])["speedup"] > 0 and figures(runs[:1])["speedup"] == 1 and figures(runs[1:2])["equal_texts"] == 1


def test_sampling_repeats_by_its_seed(session, view):
    obey(session, "/processor multinomial 1.5")
    texts = [session.decode(PROMPT, view, NEVER)[1].side.text for _ in range(2)]
    obey(session, "/seed 1")
    assert texts[0] == texts[1] != session.decode(PROMPT, view, NEVER)[1].side.text


def test_debug_shows_what_was_refused_and_what_the_target_added(session, view):
    obey(session, "/debug")
    perform(session, view, "/debug", NEVER)
    perform(session, view, "/debug", NEVER)
    perform(session, view, PROMPT.replace("\n", "\\n"), NEVER)
    assert "(refused)" in told(view) and " of 4 " in told(view) and "+ '" in told(view) and "end: length" in told(view)


def test_a_stopped_generation_keeps_the_session(session, view):
    asked = iter([False] * 3 + [True] * 100)
    assert session.decode(PROMPT, view, lambda: next(asked)) == [] and "[stopped]" in told(view)
    assert len(session.decode(PROMPT, view, NEVER)) == 2


def test_a_prompt_that_does_not_fit_is_refused(session, view):
    obey(session, "/length 1000000")
    with pytest.raises(UserError, match="do not fit the models' context"):
        session.decode(PROMPT, view, NEVER)


def test_a_prompt_without_a_side_is_refused(session, view):
    obey(session, "/target")
    obey(session, "/speculative")
    with pytest.raises(UserError, match="nothing is enabled"):
        session.decode(PROMPT, view, NEVER)


def test_a_script_gives_the_table_of_an_ablation(session, view, tmp_path):
    """Settings change between prompts; /compare pools by what differs, /save writes the ablation's columns."""
    file = tmp_path / "ablation.csv"
    lines = ["// two drafts", "/gamma 2", "def f(x):\\n", "", "/gamma 5", "def f(x):\\n", "/compare", f"/save {file}", f"/save {tmp_path}/runs.jsonl", "/quit", "never"]
    play(session, view, [line + "\n" for line in lines], "script")
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert tuple(rows[0]) == COLUMNS and [(row["method"], row["gamma"]) for row in rows] == [("autoregressive", ""), ("speculative", "2"), ("autoregressive", ""), ("speculative", "5")]
    assert [row["prompt_id"] for row in rows] == [str(run.prompt_id) for run in session.runs] and all(row["tokens"] == "12" for row in rows)
    assert float(rows[1]["speedup"]) > 0 and 0 <= float(rows[1]["acceptance_rate"]) <= 1 and 0 < float(rows[1]["mean_gamma"]) <= 2 < float(rows[3]["mean_gamma"])
    assert list(grouped(session.runs)) == ["target", "speculative gamma=2", "speculative gamma=5"]
    assert "speculative gamma=5" in told(view) and "two drafts" not in told(view)
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(records) == 4 and records[1]["method"]["token_ids"] == records[1]["baseline"]["token_ids"]


def test_figures_of_different_settings_are_not_averaged(session, view):
    for line in ("/target", "/length 6", PROMPT, "/cache none", PROMPT, "/cache full", PROMPT, "/processor multinomial 0.5", PROMPT, "/length 7", PROMPT):
        perform(session, view, line, NEVER)
    for line in ("/processor greedy", "/method speculative verifier@verifier=typical", PROMPT):
        perform(session, view, line, NEVER)
    groups = {label.removeprefix("speculative "): len(runs) for label, runs in grouped(session.runs).items()}
    assert groups == {
        "cache=full sampling=greedy length=6": 2, "cache=none sampling=greedy length=6": 1,
        "cache=full sampling=multinomial sampling.temperature=0.5 length=6": 1, "cache=full sampling=multinomial sampling.temperature=0.5 length=7": 1,
        "cache=full sampling=greedy length=7 verifier@verifier=typical": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("line", "place"), [("x\ud83d", 1), ("/save \udcff.csv", 6), ("// \ud83d", 3)])
def test_half_a_character_is_refused_before_it_is_shown(session, view, line, place):
    with pytest.raises(UserError, match=f"the line has half a character .* at place {place}"):
        perform(session, view, line, NEVER)
    with pytest.raises(UserError, match=f"script, line 2: it has half a character .* at place {place}"):
        play(session, view, ["/length 3", line], "script")
    assert "\ud83d" not in told(view)


def test_what_is_piped_in_may_have_a_mark_and_is_refused_where_it_is_no_text(session, monkeypatch, capsys):
    for content, outcome in ((codecs.BOM_UTF8 + b"/length 3\n", None), (b"/length 3\n\xff\n", "standard input, line 2: it has half a character")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
        if outcome is None:
            start(session, None, None)
        else:
            with pytest.raises(UserError, match=outcome):
                start(session, None, None)
    assert "length: 3 tokens" in capsys.readouterr().out


def test_a_history_leaves_out_what_is_no_text(tmp_path):
    history = History(str(tmp_path / "history"))
    history.store_string("/length 3")
    history.store_string("x\udcff")
    assert list(History(str(tmp_path / "history")).load_history_strings()) == ["/length 3"]


def test_a_script_ends_at_its_first_mistake(session, view):
    with pytest.raises(UserError, match="script, line 2: /lenght is no command"):
        play(session, view, ["/length 3", "/lenght 4", "/length 5"], "script")
    assert session.settings.length == 3


def test_a_method_that_decodes_elsewhere_is_refused():
    with pytest.raises(UserError, match="method=endpoint decodes on another server"):
        Session(Settings(enabled=("endpoint",)), composed, build)


def test_chat_puts_the_prompt_into_the_template(view):
    session = Session(Settings(length=4, pair=("chat_template=plain",), enabled=("target",)), composed, build)
    assert session.has_template and obey(session, "/chat") == "chat: on"
    assert session._request(session.sides[0], "hello").prompt == session.sides[0].engine.ids("hello")


def test_a_conversation_goes_on_after_mistakes_and_ends_with_the_input(session, view, tmp_path):
    """Ctrl-C gives a line up, history is kept, /quit ends."""
    history = tmp_path / "history"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("/lenght\r/length 3\r/length\x03/seed 4\r/quit\r/seed 5\r")
        converse(session, view, str(history))
    assert (session.settings.length, session.settings.seed) == (3, 4) and "/lenght is no command" in told(view)
    assert "+/seed 4" in history.read_text()


def test_the_first_interrupt_asks_to_stop_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)  # a shell may have it ignored
    with stoppable() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_completion_knows_commands_methods_and_handles():
    completer = CommandCompleter(handles_of)

    def completed(text):
        return [completion.text for completion in completer.get_completions(Document(text), CompleteEvent())]

    assert completed("/egag_g") == ["/egag_gamma_min", "/egag_gamma_max"]
    assert "prompt_lookup" in completed("/method p") and completed("/processor nu") == ["nucleus"]
    assert completed("/method speculative ga") == ["gamma="] and completed("def f") == [] and completed("/nothing x") == []


def test_completion_knows_the_methods_of_others(monkeypatch, tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "borrowed.yaml").write_text("# Mine.\n_target_: specexp.methods.speculative\nname: borrowed\nbreadth: 3\n")
    (tmp_path / "method" / "broken.yaml").write_text("# Mine.\nbreadth: 3\n")
    monkeypatch.setattr("sys.argv", ["specexp", "--config-dir", str(tmp_path)])
    assert "borrowed" in methods() and "broken" not in methods() and "endpoint" not in methods() and handles_of("borrowed") == ["breadth"]


def test_another_sampling_rule_builds_nothing(session, monkeypatch):
    monkeypatch.setattr("specexp.chat.session.open_decoder", lambda *_: pytest.fail("a decoder was built"))
    before = [side.decoder for side in session.sides]
    obey(session, "/processor nucleus 0.7 0.9")
    assert [side.decoder for side in session.sides] == before
    assert all(side.sampling.temperature == 0.7 and side.sampling.top_p == 0.9 for side in session.sides)


def test_gamma_leaves_a_method_alone_that_has_a_policy(session):
    obey(session, "/method speculative policy@policy=egag")
    obey(session, "/gamma 9")
    assert side(session, "speculative").handles["gamma"] != 9
    obey(session, "/method prompt_lookup")
    assert side(session, "prompt_lookup").handles["gamma"] == 9


def test_the_command_line_becomes_settings():
    given = ["model_pair=tiny_t5", "method=csd", "method.leniency=2", "verifier@method.reviewer=rejection", "sampling=topk", "sampling.top_k=5", "cache=none", "+method.x=1"]
    settings = from_command_line(given, "csd", 9, 3)
    assert settings.overrides("csd") == ("model_pair=tiny_t5", "sampling=topk", "sampling.top_k=5", "cache=none", "method=csd", "method.leniency=2", "verifier@method.reviewer=rejection", "+method.x=1")
    assert settings.overrides("target")[4:] == ("method=autoregressive",) and settings.enabled == ("target", "csd")
    assert from_command_line(["method=autoregressive"], "autoregressive", 9, 3).enabled == ("target",)
    assert replace(settings, gamma=3).has_own_gamma("csd") is False
