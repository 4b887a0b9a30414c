"""Small programming tasks with exactly one right answer, and the data files made of them (`python -m specexp.training.grammar --out DIR`).

Training and evaluation draw from one grammar and never share a solution: solutions whose hash falls into one residue class are held out,
and since a prompt determines its solution, prompts never overlap either. The tasks are not meant to resemble tasks that people write. This
module knows nothing of models and tokens.
"""
import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from specexp.assets import asset_path
from specexp.training.articles import article_rows
from specexp.training.templates import CHANGES, CONDITIONS, ELEMENTS, LABELS, NOUNS, OTHERS, TEMPLATES, Template

HELD_OUT = 8  # one solution in this many is kept for evaluation
LETTERS = "abcdefghiklmnoprstuw"


@dataclass(frozen=True)
class Task:
    """A function to complete: `prompt` (signature and docstring) is followed by `solution` (the indented body)."""

    prompt: str
    solution: str
    entry_point: str
    kind: str  # the kind of its arguments: a key of templates.NOUNS


def normalise(text: str) -> str:
    """The text with its white space collapsed, so that layout alone makes no new text."""
    return " ".join(text.split())


def held_out(text: str) -> bool:
    """Whether a solution (or summary) belongs to evaluation: decided by sha256, hence the same on every machine."""
    digest = hashlib.sha256(normalise(text).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def draw_slots(kind: str, rng: random.Random) -> dict[str, str]:
    """A value for every slot that a template of this kind may name; slots that it does not name are ignored."""
    many, one = rng.choice(NOUNS[kind]).split("/")
    low, high = sorted(rng.sample(range(2, 100), 2))
    (a, b), (c, e), (u, v) = rng.sample(LETTERS, 2), rng.sample(LETTERS, 2), rng.sample(LABELS, 2)
    slots = {"many": many, "one": one, "other": OTHERS.get(many, ""), "K": str(low), "L": str(high), "a": a, "b": b, "u": u, "v": v}
    smaller, larger = sorted(rng.sample(range(2, 100), 2))
    constants = {"one": one, "k": smaller, "l": larger, "m": rng.randint(2, 9), "d": rng.randint(2, 9), "c": c, "e": e}
    pairs = {"p": rng.choice(CONDITIONS[kind]), "t": rng.choice(CHANGES[kind])}
    for name, (words, code) in pairs.items():
        slots |= {name: words.format(**constants), name.upper(): code.format(**constants)}
    return slots | {"all": ELEMENTS[kind].format(**slots)}


def fill(template: Template, rng: random.Random) -> Task:
    """One task of this template, with a worked example in one prompt of five."""
    kind = rng.choice(template.kinds.split())
    slots = draw_slots(kind, rng)
    name = f"{rng.choice(template.stems.split())}_{slots['many']}"
    signature = f"{slots['many']}, {slots['other']}" if kind == "pairs" else slots["many"]
    lines = [f"def {name}({signature}):", f'    """{rng.choice(template.docs).format(**slots)}']
    solution = template.body.format(**slots)
    if rng.random() < 0.2:
        lines += worked_example(Task("\n".join(lines) + '"""\n', solution, name, kind), rng)
    else:
        lines[-1] += '"""'
    return Task("\n".join(lines) + "\n", solution, name, kind)


def worked_example(task: Task, rng: random.Random) -> list[str]:
    """Docstring lines that show one call with a short result, and close the docstring."""
    function, result = compiled(task), "?" * 99
    while len(result) > 60:
        arguments = draw_arguments(task, rng)
        result = repr(function(*arguments))
    return ["", f"    >>> {task.entry_point}({', '.join(map(repr, arguments))})", f"    {result}", '    """']


def draw_function(rng: random.Random, evaluation: bool) -> Task:
    """A task for evaluation, or for training."""
    while True:
        task = fill(rng.choice(TEMPLATES), rng)
        if held_out(task.solution) == evaluation:
            return task


def training_function(rng: random.Random) -> Task:
    """A task that no evaluation file holds."""
    return draw_function(rng, evaluation=False)


def heldout_function(rng: random.Random) -> Task:
    """A task that no training run sees."""
    return draw_function(rng, evaluation=True)


def compiled(task: Task):
    """The task's function. It is run in this process, because all of its text was written by this grammar."""
    space = {}
    exec(task.prompt + task.solution, space)
    return space[task.entry_point]


def drawn_constants(task: Task) -> list[int]:
    """The solution's numbers from 2 on; 0 and 1 belong to the structure of a template."""
    return [int(digits) for digits in re.findall(r"\d\d|[2-9]", task.solution)]


def edge_arguments(task: Task) -> list[tuple]:
    """Arguments whose only element is a drawn constant or a neighbour of one, with which a wrong constant shows."""
    near = [constant + offset for constant in drawn_constants(task)[:2] for offset in (-1, 0, 1)]
    shapes = {"number": lambda n: (n,), "numbers": lambda n: ([n],), "pairs": lambda n: ([n], [7]), "mapping": lambda n: ({"a": n},),
              "words": lambda n: (["oakmbt"[:n]],), "text": lambda n: ("oak" * n,)}
    return [shapes[task.kind](n) for n in near]


def draw_number(constants: list[int], rng: random.Random) -> int:
    """A number that is mostly near a constant of the solution, where a result off by one shows."""
    constant = rng.choice(constants or [5])
    return rng.choice((constant, constant + rng.randint(-2, 2), constant * rng.randint(-1, 3), rng.randint(-9, 20), rng.randint(0, 110)))


def draw_word(letters: str, rng: random.Random) -> str:
    """One to ten letters, half of them among those that the solution names."""
    return "".join(rng.choice(letters if rng.random() < 0.5 else LETTERS) for _ in range(rng.randint(1, 10)))


def draw_arguments(task: Task, rng: random.Random, longest: int = 5) -> tuple:
    """Random arguments of the kind the task takes; lists of up to `longest` elements, text up to four times that."""
    constants = drawn_constants(task)
    letters = "".join(re.findall(r"'([a-z])'", task.solution)) or LETTERS
    numbers = [draw_number(constants, rng) for _ in range(rng.randint(1, longest))]
    if task.kind == "words":
        return ([draw_word(letters, rng) for _ in numbers],)
    if task.kind == "text":
        return ("".join(rng.choice(letters + "aeiou09 " + LETTERS) for _ in range(rng.randint(1, 4 * longest))),)
    if task.kind == "number":
        return (abs(numbers[0]) % 121,)
    if task.kind == "pairs":
        return numbers, [draw_number(constants, rng) for _ in numbers]
    return ({draw_word(LETTERS, rng): number for number in numbers},) if task.kind == "mapping" else (numbers,)


def check_source(task: Task, rng: random.Random, asserts: int = 16) -> str:
    """HumanEval's `check(candidate)`: results of the solution at its edges and on random arguments; new results are preferred."""
    function, cases, others = compiled(task), {}, edge_arguments(task)
    for _ in range(20 * asserts):
        arguments = draw_arguments(task, rng, longest=9)
        others += [arguments] if repr(function(*arguments)) in cases else []
        cases.setdefault(repr(function(*arguments)), arguments)
    lines = ["def check(candidate):"]
    for arguments in [*list(cases.values())[:asserts // 2], *others][:asserts]:
        shown = ", ".join(map(repr, arguments))
        lines.append(f"    assert candidate({shown}) == {function(*arguments)!r}")
    return "\n".join(lines) + "\n"


def function_rows(count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Held-out tasks in HumanEval's schema, each prompt and each solution once."""
    seen = set()
    while len(seen) < count:
        task = heldout_function(rng)
        if task.solution in seen:
            continue
        yield {"task_id": f"MicroEval/{len(seen)}", "prompt": task.prompt, "entry_point": task.entry_point,
               "canonical_solution": task.solution, "test": check_source(task, rng)}
        seen.add(task.solution)


def relative(task: Task, template: Template, rng: random.Random, attempts: int = 2000) -> Task | None:
    """A training task of the same template and arguments with another solution; None where none is found."""
    for _ in range(attempts):
        other = fill(template, rng)
        alike = other.kind == task.kind and other.entry_point.partition("_")[2] == task.entry_point.partition("_")[2]
        if alike and other.solution != task.solution and not held_out(other.solution) and ">>>" not in other.prompt:
            return other
    return None


def copying_rows(count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Held-out tasks that follow a solved training task of the same template, in HumanEval's schema: much of the solution can be copied,
    not all of it.
    """
    seen = set()
    while len(seen) < count:
        template = rng.choice(TEMPLATES)
        task = fill(template, rng)
        if not held_out(task.solution) or task.solution in seen or (other := relative(task, template, rng)) is None:
            continue
        prompt = f"{other.prompt}{other.solution}\n\n{task.prompt}"
        yield {"task_id": f"MicroCopy/{len(seen)}", "prompt": prompt, "entry_point": task.entry_point,
               "canonical_solution": task.solution, "test": check_source(task, rng)}
        seen.add(task.solution)


def write(directory: Path, seed: int = 0) -> None:
    """Writes microeval.jsonl, microcopy.jsonl and microsum.jsonl; the same seed gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        "microeval": function_rows(96, random.Random(seed)),
        "microcopy": copying_rows(64, random.Random(f"{seed}/copy")),
        "microsum": article_rows(80, random.Random(seed)),
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=asset_path("asset:"), help="directory to write to (default: the package's assets)")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
