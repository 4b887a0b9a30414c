"""Mistakes that a user can put right, and how a command ends because of one.

A `UserError` holds one sentence that names the value and says what to do. `ending` makes every command end alike: that sentence stands
on standard error behind the command's name. Anything else that is raised is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import argparse
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
    line = sentence.replace("\n", "\\n")  # a value may have any character in it
    print(f"{command}: {line}", file=sys.stderr)
    raise Ended(line, code)


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
