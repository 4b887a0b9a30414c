"""Cascades built of small runners, for several test files."""

from types import SimpleNamespace

from specexp.decoding.length_rules import FixedLength
from specexp.decoding.verifiers import LenientArgmax, RejectionVerifier
from specexp.drafters.copying import MaxGramDrafter
from specexp.drafters.csd import KMatrix, cascade
from specexp.drafters.model import NoDraft
from specexp.drafters.suffixes import LatestMatch

LENIENT, EXACT = (lambda: LenientArgmax(2.0)), RejectionVerifier


def pair(*names):
    return SimpleNamespace(name="a pair", all_drafts=dict.fromkeys(names))


def csd(runners, k_matrix, reviewer, length=2):
    matrix = KMatrix(k_matrix, pair(*runners))
    return cascade(runners, MaxGramDrafter(FixedLength(length), LatestMatch(), NoDraft()), "max_gram", matrix, reviewer)
