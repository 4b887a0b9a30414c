"""The nucleus of a large vocabulary: looked for among the likeliest ids, it is the one that sorting all of them gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexp.decoding import sampling
from specexp.decoding.sampling import Sampling


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.3, 0.9, 0.999]), st.sampled_from([0.05, 1.0, 8.0]), st.sampled_from([None, 1, 40, 600]), st.booleans())
def test_the_same_as_by_sorting(seed, top_p, temperature, top_k, tied):
    torch.manual_seed(seed)
    logits = 3 * torch.randn(3, 1500)
    if tied:  # many ids are equally likely, at the edge too
        logits = logits.round()
    rule = Sampling(temperature, top_k, top_p)
    probabilities = Sampling(temperature, top_k)(logits)
    expected = rule._sorted(probabilities)
    assert torch.equal(rule(logits), expected / expected.sum(-1, keepdim=True))
    assert torch.equal(rule(logits[1]), rule(logits)[1])  # a row's law does not depend on the rows beside it


def test_only_rows_that_need_it_are_sorted(monkeypatch):
    seen = []
    sort = Sampling._sorted
    monkeypatch.setattr(Sampling, "_sorted", lambda self, rows: seen.append(rows.shape[0]) or sort(self, rows))
    logits = torch.zeros(4, 5000)
    logits[:3, 7] = 50.0  # three sure rows, and a flat one
    logits[:3] += torch.linspace(0, 1, 5000)
    Sampling(1.0, None, 0.9)(logits)
    assert seen == [1]


@pytest.mark.parametrize("vocabulary", [sampling.NUCLEUS, sampling.NUCLEUS + 1])
def test_at_the_least_size(vocabulary):
    rule = Sampling(1.0, None, 0.7)
    law = rule(torch.randn(2, vocabulary))
    assert torch.allclose(law.sum(-1), torch.ones(2)) and bool(((law > 0).sum(-1) < vocabulary).all())
