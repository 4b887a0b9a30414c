"""docs/reliability.md says what the tests do: its attacks are the suite's, its counts are theirs, every test it names exists."""

import ast
import re
from pathlib import Path

import attacks as programs
import kills
import soak

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")


def rows(title):
    """Cells of the table under a heading or line that begins so."""
    lines = PAGE[PAGE.index(f"\n{title}") :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    body = [line for line in lines[start + 1 :][: next(i for i, line in enumerate([*lines[start + 1 :], ""]) if not line.startswith("|"))]]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body]


def test_every_attack_has_its_row():
    groups = {"Against the machine": programs.BOMBS, "Against files": programs.HARM, "Against the verdict": programs.FAKES}
    for title, attacks in groups.items():
        assert [row[0] for row in rows(title)] == list(attacks)
        assert re.search(rf"^{title}.*\({len(attacks)}\):$", PAGE, re.M)


def test_every_row_of_faults_and_bad_input_names_a_test():
    for title in ("## Faults", "## Bad input", "## Trust"):
        for row in rows(title):
            named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row[-1])
            assert named, row
            for file, test in named:
                [found] = Path(__file__).parents[1].rglob(f"{file}.py")
                source = ast.parse(found.read_text(encoding="utf-8"))
                assert test in {node.name for node in source.body if isinstance(node, ast.FunctionDef)}, (file, test)


def test_counts_are_those_of_the_tests():
    assert f"| {kills.RUN_ROUNDS} kills |" in PAGE and f"| {kills.SWEEP_ROUNDS} kills |" in PAGE
    assert kills.RUN_ROUNDS + kills.SWEEP_ROUNDS >= 25
    assert f"{soak.PROMPTS:,} prompts" in PAGE and soak.ROTATIONS * soak.PER_JOB * len(soak.ROTATION) == soak.PROMPTS
