"""This module tells whether every message in the code base is reached by a test: each statement that refuses or warns notes that it was
executed.

The package is imported through a loader that puts a note before each such statement; what happens in other processes is not seen. Counted
are `raise` of anything that is made there, `return UserError(...)`, warnings of a logger, errors of a command line parser, and
`_leave(...)`.
"""

import ast
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "specexp"
ELSEWHERE = {"scoring/inside_sandbox.py"}  # it runs only in other processes; tests/scoring/test_sandbox.py reads its verdicts
REACHED: set[str] = set()


def is_message(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return isinstance(statement.exc, ast.Call)
    call = getattr(statement, "value", None)
    if not isinstance(statement, (ast.Expr, ast.Return)) or not isinstance(call, ast.Call):
        return False
    if isinstance(call.func, ast.Attribute):
        return (getattr(call.func.value, "id", None), call.func.attr) in {("logger", "warning"), ("parser", "error")}
    return getattr(call.func, "id", None) in {"UserError", "_leave"}


def sites() -> set[str]:
    """The place of every message, as FILE:LINE."""
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    return {
        f"{name}:{node.lineno}"
        for name, file in files.items()
        if name not in ELSEWHERE
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.stmt) and is_message(node)
    }


class Noting(ast.NodeTransformer):
    def __init__(self, name: str):
        self.name = name

    def visit(self, node: ast.AST):
        node = self.generic_visit(node)
        if not (isinstance(node, ast.stmt) and is_message(node)):
            return node
        [note] = ast.parse(f"__import__('messages').REACHED.add('{self.name}:{node.lineno}')").body
        for part in ast.walk(note):
            ast.copy_location(part, node)
        return [note, node]


class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str):
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        return compile(Noting(Path(path).relative_to(PACKAGE).as_posix()).visit(tree), path, "exec", dont_inherit=True)


class Finder:
    @staticmethod
    def find_spec(name: str, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name.partition(".")[0] == "specexp" else None
        if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(PACKAGE):
            return None
        spec.loader = Loader(name, spec.origin)
        return spec


def watch() -> None:
    """Must be called before anything of the package is imported."""
    sys.meta_path.insert(0, Finder)
