"""Packages that only some commands need, asked for before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from specexp.errors import UserError


def installed(extra: str, *modules: str) -> None:
    """UserError unless all are. extra: of this project, which brings them."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise UserError(f"{missing[0]} is not installed; pip install 'specexp[{extra}]' brings it.")
