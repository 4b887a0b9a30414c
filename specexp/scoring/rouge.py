"""ROUGE as a metric of `evaluate` that needs no network: the library's own would be downloaded as a script first.

Importing this module costs seconds (`evaluate`); import it where a text is scored. F-measures by rouge_score (Lin 2004), as in that script.
"""
import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer

KINDS = ("rouge1", "rouge2", "rougeL")
INPUTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


class Rouge(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` gives the mean F-measure of each of KINDS, in [0, 1]."""

    def __init__(self, stemmer: bool = True):
        super().__init__(keep_in_memory=True)  # no lock or cache files
        self._scorer = RougeScorer(KINDS, use_stemmer=stemmer)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE-1, ROUGE-2 and ROUGE-L F-measures.", citation="Lin 2004", inputs_description="texts", features=INPUTS)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scores = [self._scorer.score(reference, prediction) for prediction, reference in zip(predictions, references, strict=True)]
        return {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in KINDS}
