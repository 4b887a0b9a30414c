"""The shipped data files are what the grammar writes, solve their own checks, and share nothing with training."""
import json
import random
import re

import pytest

from specexp.assets import asset_path
from specexp.training import articles, grammar

ASSETS = asset_path("asset:")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (ASSETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def passes(row: dict, solution: str) -> bool:
    space = {}
    exec(row["prompt"] + solution + row["test"], space)
    try:
        space["check"](space[row["entry_point"]])
    except (AssertionError, TypeError, ZeroDivisionError):
        return False
    return True


@pytest.fixture(scope="module")
def training() -> list[grammar.Task]:
    rng = random.Random(7)
    return [grammar.training_function(rng) for _ in range(8000)]


def test_files_are_what_the_generator_writes(tmp_path):
    grammar.write(tmp_path)
    for name in ("microeval.jsonl", "microcopy.jsonl", "microsum.jsonl"):
        assert (tmp_path / name).read_bytes() == (ASSETS / name).read_bytes()


def test_sizes_and_schema():
    problems, articles_ = rows("microeval"), rows("microsum")
    assert (len(problems), len(articles_)) == (96, 80)
    assert [problem["task_id"] for problem in problems] == [f"MicroEval/{i}" for i in range(96)]
    assert all(set(problem) == {"task_id", "prompt", "entry_point", "canonical_solution", "test"} for problem in problems)
    assert all(set(article) == {"id", "document", "summary"} for article in articles_)
    assert all(50 <= len(article["document"].split()) <= 120 for article in articles_)


def test_a_copying_prompt_begins_with_a_solved_relative_from_training():
    problems = rows("microcopy")
    assert [problem["task_id"] for problem in problems] == [f"MicroCopy/{i}" for i in range(64)]
    for problem in problems:
        first, task = problem["prompt"].split("\n\n\n")
        solution = first.partition('"""\n')[2].partition('"""\n')[2] or first.partition('"""\n')[2]
        assert grammar.held_out(problem["canonical_solution"]) and not grammar.held_out(solution)
        assert set(problem) == set(rows("microeval")[0]) and task.startswith(f"def {problem['entry_point']}(")


def test_canonical_solutions_pass_their_checks():
    for problem in rows("microeval") + rows("microcopy"):
        assert problem["test"].count("assert") >= 5
        assert passes(problem, problem["canonical_solution"]), problem["task_id"]


def test_checks_notice_a_wrong_constant():
    constant = re.compile(r"\b([2-9]|\d\d)\b")  # 0 and 1 are structure, the drawn constants begin at 2
    problems = [problem for problem in rows("microeval") if constant.search(problem["canonical_solution"])]
    wrong = [constant.sub(lambda found: str(int(found[0]) + 1), problem["canonical_solution"], count=1) for problem in problems]
    noticed = [not passes(problem, solution) for problem, solution in zip(problems, wrong, strict=True)]
    assert sum(noticed) >= 0.95 * len(noticed) > 40


def test_training_never_meets_evaluation(training):
    problems = rows("microeval")
    prompts = {grammar.normalise(problem["prompt"]) for problem in problems}
    solutions = {grammar.normalise(problem["canonical_solution"]) for problem in problems}
    assert prompts.isdisjoint(grammar.normalise(task.prompt) for task in training)
    assert solutions.isdisjoint(grammar.normalise(task.solution) for task in training)


def test_the_rule_itself_separates_them(training):
    assert not any(grammar.held_out(task.solution) for task in training)
    assert all(grammar.held_out(problem["canonical_solution"]) for problem in rows("microeval"))


def test_articles_are_held_out_too():
    rng = random.Random(7)
    seen = {articles.training_article(rng).summary for _ in range(4000)}
    assert not any(articles.held_out(summary) for summary in seen)
    assert all(articles.held_out(row["summary"]) and row["summary"] not in seen for row in rows("microsum"))


def test_a_summary_is_found_in_its_article():
    for row in rows("microsum"):
        names = re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+|\d+", row["summary"])
        assert all(name.removeprefix("Police ").removeprefix("Repairs ") in row["document"] for name in names), row


def test_a_prompt_has_one_solution(training):
    solutions = {}
    for task in training:
        assert solutions.setdefault(grammar.normalise(task.prompt), task.solution) == task.solution


def test_same_seed_same_task():
    assert grammar.heldout_function(random.Random(3)) == grammar.heldout_function(random.Random(3))
