"""The text of `specexp --help`: examples, the commands, the methods, the choices of every group, the settings that are changed most.

It reads files and composes nothing, so it answers at once. A method's line is the docstring of its function, which is read as text and not
imported. A module of COMMANDS has a function `cli` without arguments, which reads sys.argv; it is imported only when its command is called.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from specexp.cli.plugins import options, read_mapping

COMMANDS = {  # name: (module, what the command does)
    "run": ("specexp.cli.jobs", "measure a method beside plain decoding; the word may be left out"),
    "report": ("specexp.report.__main__", "tables, comparisons and explanations of finished runs"),
    "chat": ("specexp.chat.__main__", "a console that decodes what you type by several methods"),
    "serve": ("specexp.serve.__main__", "a server that speaks OpenAI's API"),
    "perplexity": ("specexp.perplexity.__main__", "how well a model predicts a text under several caches"),
    "medusa": ("specexp.medusa.__main__", "train or measure Medusa heads for a model"),
    "tables": ("specexp.tables.__main__", "count the n-gram tables of a tokenizer"),
}

TEMPLATE = """\
specexp: which way of speculating is fastest on my models, data and machine, and does it leave the output alone?

specexp                                            the small models that ship with it: speculative beside plain decoding
specexp method=prompt_lookup dataset=microsum      another method, another data set
specexp model_pair=llama13b_7b dataset=humaneval   a named pair of models from the Hub
specexp model_pair=llama7b_160m model_pair.weights=standin   the same sizes with made-up weights (for speed alone)
specexp model_pair=custom model_pair.target.name=DIR model_pair.draft.name=DIR
specexp -m method.gamma=1,2,4,8                    a sweep: one run for each value, in multirun/

Commands (specexp COMMAND --help; python -m specexp.COMMAND is the same, python -m specexp the run)
{commands}

Methods: choose with method=NAME; docs/methods.md says more
{methods}

Groups: choose with GROUP=OPTION
{groups}

Settings: change with KEY=VALUE
  method.gamma=4  sampling.temperature=0.7  dataset.limit=20  max_new_tokens=128  ignore_eos=true
  samples=10  repeats=3  seed=1  dtype=bfloat16  device=cpu  threads=2  quick=true  sandbox=require

--cfg job              shows the whole configuration
--config-dir DIR       also reads the configurations in DIR, which is laid out like conf/
hydra.run.dir=DIR      starts the run in DIR, or goes on with it
--hydra-help           Hydra's own options (sweeps, shell completion)
"""


def manual(folders: Sequence[Path]) -> str:
    """The text, for the groups and options that lie in these folders."""
    commands = [f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items()]
    return TEMPLATE.format(commands="\n".join(commands), groups="\n".join(_lines(folders)), methods="\n".join(_method_lines(folders)))


def methods(folders: Sequence[Path]) -> dict[str, str]:
    """What each method does, by its name: the docstring of the function that its YAML names."""
    files = {file.stem: file for folder in folders for file in sorted((folder / "method").glob("*.yaml")) if file.stem[0] != "_"}
    targets = {name: str(read_mapping(file).get("_target_", "")) for name, file in files.items()}
    return {name: _docstring(*target.rpartition(".")[::2]) for name, target in targets.items()}


def method_table(folders: Sequence[Path]) -> str:
    """The list in docs/methods.md, between its two marks; tests/cli/test_manual.py says how it is brought up to date."""
    return "\n".join(["| method | what it does |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in methods(folders).items())])


def _method_lines(folders: Sequence[Path]) -> list[str]:
    found = {name: text or "(its function cannot be found)" for name, text in methods(folders).items()}
    width = max(map(len, found)) + 2
    return [_wrapped(name, text, width) for name, text in found.items()]


@cache
def _functions(module: str) -> dict[str, str]:
    """The docstrings of a module's functions, in their order; none where the module cannot be found or read."""
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        return {}
    if found is None or found.origin is None:
        return {}
    try:
        nodes = ast.parse(Path(found.origin).read_text(encoding="utf-8")).body
    except SyntaxError:
        return {}
    return {node.name: ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.FunctionDef)}


def _docstring(module: str, function: str) -> str:
    return " ".join(_functions(module).get(function, "").split())


def _lines(folders: Sequence[Path]) -> list[str]:
    groups = sorted({file.parent.relative_to(folder).as_posix() for folder in folders for file in folder.rglob("*.yaml")} - {"."})
    width = max(map(len, groups)) + 2
    return [_line(name, options(name, folders), width) for name in groups]


def _line(name: str, choices: Sequence[str], width: int) -> str:
    return _wrapped(name, ", ".join(choices), width)


def _wrapped(name: str, text: str, width: int) -> str:
    return textwrap.fill(text, 118, initial_indent=f"  {name:<{width}}", subsequent_indent=" " * (width + 2))
