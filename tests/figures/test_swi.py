"""The cost metric against figures worked out by hand."""

import pytest
import sides

from specexp.figures.cost import swi_figures


def side(tokens, target, **drafts):
    return sides.side(tokens, target_forwards=target, draft_forwards_by_model=drafts)


def test_passes_are_weighed_by_their_costs():
    made = [side(40, 10, base=20, small=50), side(60, 10, base=30, small=50)]
    tables = {"previous_work": {"target": 1.0, "base": 0.04, "small": 0.02}, "parameters": {"target": 100, "base": 10, "small": 1}}
    found = swi_figures(made, tables)
    assert found["swi_previous_work"] == pytest.approx(100 / (20 + 50 * 0.04 + 100 * 0.02))
    assert found["swi_parameters"] == pytest.approx(100 * 100 / (2000 + 500 + 100))


def test_autoregressive_decoding_gains_nothing_and_free_drafters_cost_nothing():
    assert swi_figures([side(30, 30)], {"t": {"target": 7.0}}) == {"swi_t": 1.0}
    assert swi_figures([side(30, 10)], {"t": {"target": 7.0}}) == {"swi_t": 3.0}


def test_an_unknown_cost_is_no_guess():
    assert swi_figures([side(30, 10, draft=3)], {"t": {"target": 1.0, "small": 0.02}}) == {"swi_t": None}
