"""Mistakes that a user can put right, and how a command ends because of one. Two that any text can hold are told here: another encoding
than UTF-8, and half a character.

A `UserError` holds one sentence that names the value and says what to do. `ending` makes every command end alike: that sentence stands
on standard error behind the command's name. Anything else that is raised is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import argparse
import codecs
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn

INTERRUPTED = 130  # the exit code by which a shell knows that Ctrl-C ended a command


class UserError(Exception):
    """Bad input: one sentence with the offending value and what to do about it."""


class Ended(SystemExit):
    """Ends a command with a sentence and an exit code. Where Hydra turns exceptions into warnings, this one gets through."""

    def __init__(self, sentence: str, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose mistakes are UserErrors instead of a usage text and an exit code of its own."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help shows what can be given.")


@contextmanager
def ending(command: str, interrupted: str = "interrupted.") -> Iterator[None]:
    """Run the block as the whole of `command`, its name as it is typed; sentences are printed here and nowhere else."""
    try:
        yield
        sys.stdout.flush()
        return
    except KeyboardInterrupt:
        sentence, code = interrupted, INTERRUPTED
    except UserError as error:
        sentence, code = str(error), 1
    except Ended as end:
        sentence, code = str(end), end.code
    except BrokenPipeError:
        if _output_is_open():
            raise
        raise Ended("the program that reads the output has ended.") from None  # and with it whoever would read this
    line = on_one_line(sentence)
    print(f"{command}: {line}", file=sys.stderr)
    raise Ended(line, code)


def on_one_line(sentence: str) -> str:
    """With everything spelt out that breaks a line or moves a terminal's cursor: a value in it may have any character."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in sentence)


def _output_is_open() -> bool:
    """False where the program that was reading our output has ended (`| head`); nothing is written to it from then on."""
    watched = select.poll()
    watched.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in watched.poll(0)):
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return False


def installed(extra: str, *modules: str) -> None:
    """UserError unless all the modules can be imported; `extra` is the optional part of this project that brings them."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise UserError(f"{missing[0]} is not installed; pip install 'specexp[{extra}]' brings it.")


# Marks at the beginning of a file, the longer ones first, as UTF-32's begins like UTF-16's.
MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


def decoded(data: bytes, what: str, otherwise: str = "") -> str:
    """The text that a file's bytes are in UTF-8, without a byte order mark and with \\n at the end of every line. what: names the file.
    otherwise: what can be done besides saving it anew.

    Raises UserError for bytes of another encoding.
    """
    if encoding := next((name for mark, name in MARKS if data.startswith(mark)), "UTF-16" if b"\0" in data else None):
        way_out = f"save it as UTF-8 (iconv -f {encoding} -t UTF-8 FILE > NEW_FILE){otherwise}"
        raise UserError(f"{what} cannot be read (it is {encoding}, not UTF-8): {way_out}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"line {line} has the byte 0x{data[error.start]:02x}, which is not UTF-8"
        way_out = f"save it as UTF-8 (iconv -f LATIN1 -t UTF-8 FILE > NEW_FILE, say){otherwise}"
        raise UserError(f"{what} cannot be read ({reason}): {way_out}.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def whole(text: str, what: str) -> str:
    """`text` itself. what: names it, as a sentence begins.

    Raises UserError where it has half a character: one of the two code units by which JSON writes an emoji ("\\ud83d"), or a byte of a
    command line that was no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"{text[error.start]!a} at place {error.start}"
        raise UserError(f"{what} has half a character ({where}): write the whole character, or leave it out.") from error
    return text
