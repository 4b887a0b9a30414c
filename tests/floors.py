"""The floors of the house, and every import that does not go downwards. The imports are read from the source; nothing is executed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import specexp

PACKAGE = Path(specexp.__file__).parent
# Floors, from the ground up. A room may import the rooms of the floors below it, and no other.
FLOORS = (
    {"errors", "assets"},
    {"decoding", "scoring", "figures"},
    {"tracking", "datasets", "text", "drafters", "runners"},
    {"models", "report"},
    {"training", "peers"},
    {"methods"},
    {"experiment"},
    {"live", "cli"},
    {"chat", "serve", "perplexity", "medusa", "tables"},
    {"__main__"},
)
FAR = {  # rooms that must not import each other, though one lies below: decoding knows nothing of reports, nor they of it
    **{room: {"datasets", "scoring", "figures", "tracking", "report"} for room in ("decoding", "drafters", "runners")},
    **{room: {"decoding", "drafters", "runners", "models", "peers"} for room in ("datasets", "scoring", "figures", "tracking", "report")},
}
LEAVES = {"decoding.theory", "decoding.protocols"}  # formulas on plain numbers, and names of types: every room may import these


def files() -> list[tuple[Path, str]]:
    """Every Python file of the package, and its name as seen from the package."""
    return [(file, file.relative_to(PACKAGE).as_posix()) for file in sorted(PACKAGE.rglob("*.py"))]


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that the import statements anywhere in `tree` name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "specexp":
                yield from (f"specexp.{alias.name}" for alias in node.names)


def upward_imports() -> list[str]:
    """A sentence for each import within the package that does not go downwards."""
    wrong = []
    for file, name in files():
        room = name.split("/")[0].removesuffix(".py")
        for module in imports(parsed(file)):
            path = module.split(".")[1:]
            if module.split(".")[0] != "specexp" or not path or path[0] in ("", room) or ".".join(path) in LEAVES:
                continue
            if room != "__init__" and (floor(path[0]) >= floor(room) or path[0] in FAR.get(room, ())):
                wrong.append(f"{name} imports {module}")
    return wrong


def floor(room: str) -> int:
    """The number of the room's floor. Raises StopIteration for a room that is on no floor yet."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)
