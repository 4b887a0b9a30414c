"""One round's token tree on the terminal: `python -m specexp.report tree RUN_DIRECTORY [--example ID]`.

From the run's records alone, which hold the first round of each example that drafted a tree. Nodes on the kept path are green, the others
dim, and behind the path stands the token that the target added; without colours the kept ones are marked with a star.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from specexp.errors import UserError
from specexp.tracking.records import read_records

ROOT = -1


def drawn(tree: dict, title: str) -> Tree:
    """tree: `parents` (-1 is the context), `path` (kept nodes), `texts` of the `nodes` and of the target's `own` token behind the path."""
    kept, branches = set(tree["path"]), {ROOT: Tree(Text(title), guide_style="dim")}
    for node, (text, parent) in enumerate(zip(tree["texts"]["nodes"], tree["parents"], strict=True)):
        label = Text(f"{text!r}{' *' if node in kept else ''}", style="green" if node in kept else "dim")
        branches[node] = branches[parent].add(label)
    for text in tree["texts"]["own"]:
        branches[tree["path"][-1] if tree["path"] else ROOT].add(Text(f"{text!r} the target's own", style="blue"))
    return branches[ROOT]


def find(directory: Path, example: str | None) -> tuple[str, dict]:
    """(example, its tree): of the example that was asked for, or of the first that has one. Raises UserError."""
    records = read_records(directory)
    trees = {record["id"]: record["method"]["tree"] for record in records if record["method"].get("tree")}
    if not trees:
        raise UserError(f"{directory} holds no token tree; run a method that drafts trees (method=tree).")
    if example is not None and example not in trees:
        raise UserError(f"{directory} holds no tree of {example}; choose one of {', '.join(list(trees)[:5])}.")
    name = example or next(iter(trees))
    return name, trees[name]


def main(arguments: list[str]) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m specexp.report tree", description=__doc__, formatter_class=layout)
    parser.add_argument("directory", type=Path, help="a run directory")
    parser.add_argument("--example", help="the example's id; the first with a tree by default")
    options = parser.parse_args(arguments)
    name, tree = find(options.directory, options.example)
    facts = f"{name}: {len(tree['nodes'])} nodes, {len(tree['path'])} accepted"
    Console().print(drawn(tree, facts))
