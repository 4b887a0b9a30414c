"""The figures that say whether the house stays small: `python tests/house/measure.py [--no-run]` prints each beside its bound.

Ends with exit code 1 where a bound is missed. All figures are read off the source and the configuration, except the number of files that
one prompt runs through: for that one, a job is run in a process of its own, in which every call of a function is noted. `--no-run` leaves
it out.
"""

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for floors, where this is run as a command
sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # for specexp, where it is not installed

from floors import PACKAGE, files, parsed, upward_imports

METHODS = PACKAGE.parent / "conf" / "method"
# What every reader of any method reads: the loop with its types, the exact rule of acceptance and the fixed draft length.
LOOP = {f"specexp.decoding.{name}" for name in ("draft", "context", "decoder", "protocols", "sampling")}
LOOP_PARTS = {"RejectionVerifier", "FixedLength"}
# The command of one prompt, in a process that notes the file of each function that is called while no module is being imported.
NOTING = """
import runpy, sys, threading
package, files, begun = sys.argv[1], set(), sys._getframe()
def note(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(package) and code.co_filename not in files:
        while frame is not None and (frame.f_code.co_name != "<module>" or frame.f_globals["__name__"] == "__main__"):
            frame = frame.f_back
        if frame is None:
            files.add(code.co_filename)
sys.argv = ["specexp", "dataset.limit=1", "tracker=none", "hydra.run.dir=run"]
threading.setprofile(note)
sys.setprofile(note)
try:
    runpy.run_module("specexp", run_name="__main__", alter_sys=True)
finally:
    sys.setprofile(None)
    with open("files", "w") as stream:
        stream.writelines(f"{file[len(package):]}\\n" for file in sorted(files))
"""


def modules() -> list[str]:
    """Every file that holds code: `__init__.py` is none."""
    return [name for _, name in files() if not name.endswith("__init__.py")]


def loose() -> list[str]:
    """The modules that lie in no room."""
    return [name for name in modules() if "/" not in name]


def files_run() -> list[str]:
    """The files with a function that a job of one prompt calls. Doors (`__init__.py`, `__main__.py`) are left out."""
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
        ended = subprocess.run([sys.executable, "-c", NOTING, f"{PACKAGE}/"], cwd=place, env=environment, capture_output=True, text=True)
        if ended.returncode or not (Path(place) / "files").is_file():
            sys.exit(f"the run failed:\n{ended.stderr}")
        return [name for name in (Path(place) / "files").read_text().splitlines() if not Path(name).name.startswith("__")]


def files_to_read(method: str) -> list[str]:
    """What a reader of one method opens: the function or the file that puts it together, and the modules of its parts.

    Parts are drafters, with the drafters that they are made of, verifiers and length rules. What every method has is left out.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(METHODS.parent), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", [f"method={method}"]).method)
    GlobalHydra.instance().clear()
    targets = [target.rpartition(".")[::2] for target in _targets(node)]
    begun = [name for module, name in targets if module == "specexp.methods"]
    found, parts = {"specexp.methods"} if begun else {f"conf/method/{method}.yaml"}, [part for part in targets if part[0] != "specexp.methods"]
    parts += _named_in_methods(begun)
    while parts:
        module, name = parts.pop()
        if module in found or module in LOOP or name in LOOP_PARTS or not module.startswith(("specexp.drafters.", "specexp.decoding.")):
            continue
        found.add(module)
        if module.startswith("specexp.drafters."):
            parts += _imported(parsed(_file(module))).values()
    return sorted(found)


def _targets(node: object) -> Iterator[str]:
    for value in node.values() if isinstance(node, dict) else ():
        yield from _targets(value)
    if isinstance(node, dict) and "_target_" in node:
        yield str(node["_target_"])


def _named_in_methods(functions: list[str]) -> list[tuple[str, str]]:
    """(module, name) of everything imported that these functions of specexp.methods use, with the functions beside them that they use."""
    if not functions:
        return []
    tree = parsed(_file("specexp.methods"))
    bodies, known, seen, parts = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}, _imported(tree), set(), []
    while functions:
        function = functions.pop()
        if function in seen or function not in bodies:
            continue
        seen.add(function)
        for node in ast.walk(bodies[function]):
            if isinstance(node, ast.Name):
                functions.append(node.id)
                parts += [known[node.id]] if node.id in known else []
    return parts


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """What a name of the module means: name -> (module of this package, name there)."""
    found = {}
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("specexp") else ():
            module = f"{node.module}.{alias.name}"
            found[alias.asname or alias.name] = (module if _file(module).is_file() else node.module, alias.name)
    return found


def _file(module: str) -> Path:
    return PACKAGE.parent / f"{module.replace('.', '/')}.py"


def relative_interpolations() -> list[str]:
    return [f"{file.name}: {line.strip()}" for file, line in _method_lines() if "${.." in line for _ in range(line.count("${.."))]


def method_lines() -> list[str]:
    return [line for _, line in _method_lines()]


def _method_lines() -> list[tuple[Path, str]]:
    return [(file, line) for file in sorted(METHODS.glob("*.yaml")) for line in file.read_text(encoding="utf-8").splitlines()]


def nested_imports() -> list[str]:
    """Each import of the package inside a function, where a reader meets it late."""
    found = []
    for file, name in files():
        inside = {
            node
            for function in ast.walk(parsed(file))
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            for node in ast.walk(function)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        found += [f"{name}:{node.lineno}" for node in sorted(inside, key=lambda node: node.lineno) if _own(node)]
    return found


def _own(node: ast.AST) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return any(name.split(".")[0] == "specexp" for name in names)


def cycles() -> list[list[str]]:
    """Modules that import each other in a circle, in the statements that run when they are imported."""
    graph = {}
    for file, name in files():
        module = "specexp." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[module] = set(_at_import(parsed(file)))
    reached = {module: _reached(graph, module) for module in graph}
    groups = {frozenset({module, *(other for other in reached[module] if module in reached[other])}) for module in graph if module in reached[module]}
    return sorted(sorted(group) for group in groups)


def _at_import(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("specexp"):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if _file(module).is_file() or (_file(module).with_suffix("") / "__init__.py").is_file() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not _for_types(node):
            yield from _at_import(node)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found, left = set(), [start]
    while left:
        new = graph.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


@dataclass(frozen=True)
class Figure:
    """What is counted is the length of `list()`: with --list each entry is printed."""

    name: str
    bound: int
    list: Callable[[], list]
    runs: bool = False


FIGURES = (
    Figure("modules", 135, modules),
    Figure("loose modules in specexp/", 4, loose),
    Figure("files run for a one-prompt default job", 48, files_run, runs=True),
    Figure("files to read for CSD", 6, lambda: files_to_read("csd")),
    Figure("files to read for prompt lookup", 3, lambda: files_to_read("prompt_lookup")),
    Figure("relative interpolations in conf/method", 0, relative_interpolations),
    Figure("lines of conf/method", 420, method_lines),
    Figure("imports inside functions", 80, nested_imports),
    Figure("import cycles", 0, cycles),
    Figure("imports that do not go downwards", 0, upward_imports),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-run", action="store_true", help="leave out the figure that needs a run")
    parser.add_argument("--list", metavar="TEXT", help="print what is counted by the figures whose name holds TEXT")
    options = parser.parse_args()
    missed = False
    print(f"{'figure':<40} {'at most':>7} {'measured':>8}")
    for figure in FIGURES:
        if figure.runs and options.no_run:
            continue
        found = figure.list()
        missed |= len(found) > figure.bound
        print(f"{figure.name:<40} {figure.bound:>7} {len(found):>8}{'  missed' if len(found) > figure.bound else ''}")
        if options.list and options.list in figure.name:
            print(*(f"    {entry}" for entry in found), sep="\n")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
