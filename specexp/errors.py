"""The one exception for what a user can put right: its text is a sentence that names the value and the way out.

The command line prints it without a traceback; everything else that is raised is a defect and keeps its traceback.

Packages that only some commands need, asked for before anything is loaded.
"""

from __future__ import annotations

from importlib.util import find_spec


class UserError(Exception):
    """Bad input: one sentence with the offending value and what to do about it."""


def installed(extra: str, *modules: str) -> None:
    """UserError unless all are. extra: of this project, which brings them."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise UserError(f"{missing[0]} is not installed; pip install 'specexp[{extra}]' brings it.")
