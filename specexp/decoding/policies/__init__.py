"""How long a draft should be. Every policy decides before a token is drawn, or keeps the drawn token in the verified block:
dropping one after the draw would bias the text."""

from specexp.decoding.policies.adaedl import AdaEDL
from specexp.decoding.policies.confidence import ConfidenceThreshold
from specexp.decoding.policies.cost_model import CostModel
from specexp.decoding.policies.egag import EGAG, CalibratedEGAG
from specexp.decoding.policies.fixed import FixedLength
from specexp.decoding.policies.heuristic import HeuristicLength, TransientHeuristicLength

__all__ = [
    "EGAG",
    "AdaEDL",
    "CalibratedEGAG",
    "ConfidenceThreshold",
    "CostModel",
    "FixedLength",
    "HeuristicLength",
    "TransientHeuristicLength",
]
