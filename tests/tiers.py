"""Which cases of a parametrised test the fast tier runs; the others are of the same kind and run in the slow tier."""

from collections.abc import Collection, Iterable, Mapping

import pytest


def tiered(cases: Iterable | Mapping, fast: Collection) -> list:
    """Parameters with the names of their cases; `fast`: the names of those for the fast tier."""
    named = cases if isinstance(cases, Mapping) else {case: case for case in cases}
    assert set(fast) <= set(named), f"no such case: {set(fast) - set(named)}"
    name = lambda key: key if isinstance(key, str) else "-".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return [pytest.param(case, id=name(key), marks=[] if key in fast else pytest.mark.slow) for key, case in named.items()]
