"""Reads lines for a session, from a person at a terminal or from a script or pipe. Ctrl-C stops the generation and keeps the session.

A script ends at its first mistake, because the lines after it rely on the one that failed. A person sees the message and goes on.

What the console shows: text coloured by the origin of its tokens, drafts round by round, and tables. Nothing that was shown is
overwritten, so the output can go into a pipe.

Colours appear only at a terminal and where NO_COLOR is not set (rich decides). /debug and the tables say the same in words.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from rich.console import Console
from rich.table import Table
from rich.text import Text

from specexp.chat.commands import COMMANDS, Quit, methods, nodes, obey
from specexp.chat.session import Run, Session, figures
from specexp.decoding.decoder import Round
from specexp.errors import UserError, whole
from specexp.live.engine import CANCELLED, Piece
from specexp.report.table import heading, plain_console

PROMPT = "> "
REMARK = "//"


class CommandCompleter(Completer):
    """Completes commands, their first arguments, and the settings of methods. handles: method -> names of its settings."""

    def __init__(self, handles: Callable[[str], list[str]]):
        self._handles = handles

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        *before, word = document.text_before_cursor.split(" ")
        for choice in self._choices(before) if document.text_before_cursor.startswith("/") else ():
            if choice.startswith(word):
                yield Completion(choice, start_position=-len(word))

    def _choices(self, before: list[str]) -> list[str]:
        if not before:
            return list(COMMANDS)
        if before[0] == "/method":
            return methods() if len(before) == 1 else [f"{key}=" for key in self._handles(before[1])]
        return list(COMMANDS[before[0]].choices) if len(before) == 1 and before[0] in COMMANDS else []


def handles_of(method: str) -> list[str]:
    """The names of a method's settings, read from its file."""
    content = nodes().get(method, {})
    return [key for key, value in content.items() if key not in ("defaults", "name", "_target_") and not isinstance(value, dict)]


def perform(session: Session, view: RichView, line: str, cancelled: Callable[[], bool]) -> None:
    """Carry out one line: a command, a remark or a prompt. UserError for what cannot be done; Quit when the console is to end."""
    if not whole(line, "the line").strip() or line.startswith(REMARK):
        return
    if not line.startswith("/"):
        runs = session.decode(line.replace("\\n", "\n").replace("\\t", "\t"), view, cancelled)
        view.table(runs)
        return
    said = obey(session, line)
    view.debug = session.settings.debug
    shown = {"/help": lambda: view.help(session), "/clear": view.console.clear, "/compare": lambda: view.table(session.runs)}
    shown.get(line.split()[0], lambda: view.say(said or "", "cyan"))()


class History(FileHistory):
    """What was typed, in a file. A line that is no whole text, which the console refuses anyway, is left out."""

    def store_string(self, string: str) -> None:
        with suppress(UserError):
            super().store_string(whole(string, "the line"))


def converse(session: Session, view: RichView, history: str | None) -> None:
    """Talk with a person until Ctrl-D or /quit."""
    remembered = InMemoryHistory() if history is None else History(str(Path(history).expanduser()))
    prompt = PromptSession(PROMPT, history=remembered, completer=CommandCompleter(handles_of), complete_while_typing=False)
    view.welcome(session)
    while (line := _read(prompt)) is not None:
        try:
            with stoppable() as stopped:
                perform(session, view, line, stopped)
        except UserError as error:
            view.say(str(error), "red")
        except KeyboardInterrupt:
            view.say(" [interrupted]", "dim")
        except Quit:
            return


def _read(prompt: PromptSession) -> str | None:
    """The next line; "" if it was given up with Ctrl-C, None at Ctrl-D."""
    try:
        return prompt.prompt()
    except KeyboardInterrupt:
        return ""
    except EOFError:
        return None


def play(session: Session, view: RichView, lines: Iterable[str], name: str) -> None:
    """Carry out a script. UserError at its first mistake, with the number of the line."""
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        try:
            if whole(line, "it").strip() and not line.startswith(REMARK):
                view.say(f"{PROMPT}{line}", "bold")
            perform(session, view, line, lambda: False)
        except UserError as error:
            raise UserError(f"{name}, line {number}: {error}") from error
        except Quit:
            return


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """While this is open, the first Ctrl-C is only noted, for the yielded function to tell; the second one interrupts."""
    stopped = Event()

    def note(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def start(session: Session, script: tuple[Iterable[str], str] | None, history: str | None) -> None:
    """Carry out the script, given as its lines and its name, if there is one, else what is piped in, else talk with a person."""
    first = session.sides[0].engine.tokenizer if session.sides else None
    view = RichView(plain_console(highlight=False), lambda token: first.decode([token]) if first else str(token))
    if script is not None:
        play(session, view, *script)
    elif not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")  # a byte that is no UTF-8 is refused with its line
        play(session, view, sys.stdin, "standard input")
    else:
        converse(session, view, history)


SEEN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421} | dict.fromkeys(range(128, 160), "\ufffd")
# Control characters as signs: what a model writes moves no cursor and changes no colours.
ORIGINS = {"target": "", "draft": "green", "bonus": "blue", "resample": "red"}
STAGES = ("green", "cyan", "yellow", "magenta")  # of a cascade's stages, in the order in which they first appear
LEGEND = (("accepted", "draft"), ("corrected", "resample"), ("bonus", "bonus"))
COLUMNS = ("", "tokens", "accepted", "per round", "tokens/s", "speedup", "target's text")
HINT = "/help lists the commands; Ctrl-C stops a generation, Ctrl-D leaves."


class RichView:
    """Writes to a console. spell: id -> its text, for /debug."""

    def __init__(self, console: Console, spell: Callable[[int], str]):
        self.console, self._spell = console, spell
        self.debug = False
        self._stages: dict[str, str] = {}

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text.translate(SEEN), style=style), soft_wrap=True)

    def welcome(self, session: Session) -> None:
        self.say(f"enabled: {', '.join(session.settings.enabled)}. {HINT}", "dim")
        self.console.print(Text("tokens: ", style="dim").append_text(_joined(Text(word, style=ORIGINS[origin]) for word, origin in LEGEND)))

    def begin(self, name: str) -> None:
        self._stages, self._rounds = {}, 0
        self.console.print(Text(f"── {name}", style="bold"))

    def hear(self, round_: Round, pieces: list[Piece]) -> None:
        if self.debug:
            self._round(round_)
            return
        for piece in pieces:
            self.console.print(Text(piece.text.translate(SEEN), style=self._style(piece.origin)), end="", soft_wrap=True)

    def end(self, finish: str) -> None:
        self.say({CANCELLED: " [stopped]", "length": ""}.get(finish, "") if not self.debug else f"end: {finish}", "dim")

    def table(self, runs: Sequence[Run], title: str | None = None) -> None:
        """One line for each way of decoding, over all of its prompts."""
        table = Table(title=heading(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for place, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if place else "left", header_style="dim", no_wrap=bool(place), overflow="fold")
        for name, group in grouped(runs).items():
            table.add_row(Text(name), *_cells(figures(group)))
        self.console.print(table)

    def help(self, session: Session) -> None:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for command in COMMANDS.values():
            usage = Text(f"{command.name} {command.arguments}".rstrip(), style="bold")
            table.add_row(usage, command.does, Text(str(command.now(session.settings)), style="cyan"))
        self.console.print(table)
        self.say(r"Anything else is a prompt; \n and \t in it are a line break and a tab. A line that begins with // is a remark.", "dim")

    def _style(self, origin: str) -> str:
        kind, _, stage = origin.partition(":")
        if not stage:
            return ORIGINS[kind]
        return self._stages.setdefault(stage, STAGES[len(self._stages) % len(STAGES)])

    def _round(self, round_: Round) -> None:
        """One line with every drafted token, kept or refused, and what the target added."""
        line = Text(f"{self._rounds:>4}  {f'{round_.accepted} of {round_.drafted}' if round_.drafted else 'target':<9}", style="dim")
        self._rounds += 1
        for place, node in enumerate(round_.nodes):
            kept = place in round_.path
            line.append(f"{self._spell(node)!r} ", style="green" if kept else "red strike")
            line.append("" if kept or self.console.is_terminal else "(refused) ")
        for token in round_.tokens[round_.accepted :]:
            line.append(f"+ {self._spell(token)!r} ", style="blue")
        self.console.print(line, soft_wrap=True)


def grouped(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs by the method's name and, if a method ran with several settings of its own or of all methods, by those that differ."""
    runs = list(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        own, others = _settings(run), [_settings(other) for other in runs if other.name == run.name]
        varied = [key for key in own if any(other.get(key) != own[key] for other in others)]
        groups.setdefault(" ".join([run.name, *(f"{key}={own[key]}" for key in varied)]), []).append(run)
    return groups


def _settings(run: Run) -> dict[str, object]:
    return {**run.handles, **run.beside}


def _cells(found: dict) -> list[str]:
    def cell(key: str, form: str) -> str:
        return "" if found.get(key) is None else form.format(found[key])

    same = found.get("equal_texts")
    return [
        cell("num_tokens", "{}"),
        cell("draft_acceptance_rate", "{:.1%}"),
        cell("mean_acceptance_length", "{:.2f}"),
        cell("output_tps_per_user", "{:.1f}"),
        cell("speedup", "{:.2f}x"),
        "" if same is None else {1.0: "same", 0.0: "another"}.get(same, f"{same:.0%} same"),
    ]


def _joined(words: Iterable[Text]) -> Text:
    return Text(", ", style="dim").join(words)
