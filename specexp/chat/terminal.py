"""Reads lines for a session, from a person at a terminal or from a script or pipe. Ctrl-C stops the generation and keeps the session.

A script ends at its first mistake, because the lines after it rely on the one that failed. A person sees the message and goes on.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from rich.console import Console

from specexp.chat.commands import COMMANDS, Quit, methods, obey
from specexp.chat.session import Session
from specexp.chat.view import RichView
from specexp.errors import UserError

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
    import yaml

    from specexp.cli.messages import conf_directory

    file = Path(conf_directory()) / "method" / f"{method}.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [key for key, value in content.items() if key not in ("defaults", "name") and not isinstance(value, dict)]


def perform(session: Session, view: RichView, line: str, cancelled: Callable[[], bool]) -> None:
    """Carry out one line: a command, a remark or a prompt. UserError for what cannot be done; Quit when the console is to end."""
    if not line.strip() or line.startswith(REMARK):
        return
    if not line.startswith("/"):
        runs = session.decode(line.replace("\\n", "\n").replace("\\t", "\t"), view, cancelled)
        view.table(runs)
        return
    said = obey(session, line)
    view.debug = session.settings.debug
    shown = {"/help": lambda: view.help(session), "/clear": view.console.clear, "/compare": lambda: view.table(session.runs)}
    shown.get(line.split()[0], lambda: view.say(said or "", "cyan"))()


def converse(session: Session, view: RichView, history: str | None) -> None:
    """Talk with a person until Ctrl-D or /quit."""
    remembered = InMemoryHistory() if history is None else FileHistory(str(Path(history).expanduser()))
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
        if line.strip() and not line.startswith(REMARK):
            view.say(f"{PROMPT}{line}", "bold")
        try:
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


def start(session: Session, script: Path | None, history: str | None) -> None:
    """Carry out the script if there is one, else what is piped in, else talk with a person."""
    first = session.sides[0].engine.tokenizer if session.sides else None
    view = RichView(Console(highlight=False), lambda token: first.decode([token]) if first else str(token))
    if script is not None:
        with script.open(encoding="utf-8") as lines:
            play(session, view, lines, str(script))
    elif not sys.stdin.isatty():
        play(session, view, sys.stdin, "standard input")
    else:
        converse(session, view, history)
