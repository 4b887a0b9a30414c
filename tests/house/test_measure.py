"""The house stays small: no figure of tests/house/measure.py is over its bound."""

import pytest
from measure import FIGURES

# These bounds are not reached yet: `python tests/house/measure.py` shows how far they are. A name leaves this set once its bound holds.
AHEAD: set[str] = set()  # figures that are known to miss their bound


@pytest.mark.parametrize(
    "figure",
    [pytest.param(figure, id=figure.name, marks=[pytest.mark.slow] if figure.runs else []) for figure in FIGURES if figure.name not in AHEAD],
)
def test_figures_of_the_house_are_within_their_bounds(figure):
    found = figure.list()
    assert len(found) <= figure.bound, found
