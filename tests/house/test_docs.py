"""README, docs and the comments in conf/: every command that they show can be composed and passes the checks, every setting, link and file
that they name is there, the index names all pages."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from tiers import tiered

from specexp.cli.check import check, check_signatures
from specexp.cli.plugins import conf_directory

ROOT = Path(__file__).parents[2]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
CONF = Path(conf_directory())
COMMENTS = {
    f"conf/{group or '*.yaml'}": "\n".join(
        line.partition("# ")[2] for file in sorted((CONF / group).glob("*.yaml")) for line in file.read_text(encoding="utf-8").splitlines()
    )
    for group in ("", *sorted(str(folder.relative_to(CONF)) for folder in CONF.rglob("*") if folder.is_dir()))
}
CONFIGURATIONS = {"run": "config", "chat": "chat", "serve": "serve", "perplexity": "perplexity"}
FILLED = {"=PAIR": "=tiny", "baselines.NAME=METHOD": "baselines.second=nasd", "method=NAME": "method=nasd", "method.KEY=VALUE": "method.gamma=2"}
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="needs the checkout, not the source distribution")


def commands(text):
    """(command, arguments) of each `specexp ...` and `python -m specexp...` in a block of code or in a line, comments and pipes left out."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:python -m |specexp )[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S).replace("\n", " "))
    for line in lines:
        for part in line.partition(" > ")[0].split(" && "):
            words = shlex.split(part.partition(" | ")[0], comments=True)
            if (words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "specexp") or words[:1] == ["specexp"]:
                yield command_of(words)


def commands_in_comments(text):
    """The same of YAML's comments, where a command ends with its line, before a remark, or behind the last word that can be an argument."""
    for line in re.findall(r"python -m specexp.*", text):
        command, words = command_of(shlex.split(re.split(r"  |`| [([]", line)[0].replace("'s ", " ").rstrip(",.;:)")))
        arguments = takewhile(lambda word: word.startswith("-") or "=" in word or word == "...", words)
        yield command.rstrip(",.;:)"), [argument.rstrip(",;") for argument in arguments]


def command_of(words):
    """specexp serve ... and python -m specexp.serve ... alike; the run has no name where nothing else has one."""
    words = words[2].split(".")[:2] + words[3:] if words[0] == "python" else words
    named = len(words) > 1 and words[1].isidentifier()
    return (words[1], words[2:]) if named else ("run", words[1:])


def overrides(arguments):
    """Of a sweep, the first job's; what a reader has to fill in is filled in."""
    parser = OverridesParser.create()
    for text in arguments:
        if text == "-m":
            continue
        for pattern, value in FILLED.items():
            text = text.replace(pattern, value)
        override = parser.parse_override(text)
        if not override.is_sweep_override():
            yield text
        elif isinstance(override.value(), IntervalSweep):
            yield f"{override.get_key_element()}={override.value().start}"
        else:
            yield f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


@pytest.mark.parametrize("page", tiered([*PAGES, *COMMENTS], {"README.md", "docs/index.md", "docs/papers.md", "conf/cache", "conf/text"}))
def test_the_commands_of_a_page_can_be_composed_and_pass_the_checks(page):
    for command, arguments in commands(PAGES[page]) if page in PAGES else commands_in_comments(COMMENTS[page]):
        name = CONFIGURATIONS.get(command)
        if name is None or any(argument.startswith("--") or argument == "..." for argument in arguments):
            continue  # another command, one that composes nothing, or a pattern
        GlobalHydra.instance().clear()
        given = list(overrides(arguments))
        with initialize_config_dir(conf_directory(), version_base="1.3"):
            config = compose(name, overrides=given)
        if name == "perplexity":
            check_signatures(config)
        else:
            check(config, given)


def methods_parts():
    """(group, place in a method) of all parts that can be exchanged."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "method").glob("*.yaml")]
    chosen = [key for file in files for one in file.get("defaults", []) if isinstance(one, dict) for key in one]
    return {tuple(key.strip("/").split("@")) for key in chosen}


def keys_of(group):
    return {key for file in (CONF / group).glob("*.yaml") for key in yaml.safe_load(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", [*PAGES, *COMMENTS])
def test_settings_that_are_named_exist(page):
    """`method.KEY` of some method, `GROUP@method.PART=OPTION` of a part that some method has; also where they are no whole command."""
    text, parts = (PAGES | COMMENTS)[page], methods_parts()
    groups = {place: group for group, place in parts}
    own = ("doubling", "OPTION")  # of a rule that a page has the reader write, and of a pattern
    for group, place, option in re.findall(r"(?<![\w@.])(\w+)@method\.([\w.]+)=(\w+)", text):
        assert (group, place) in parts, (group, place)
        assert option == "null" or option in own or (CONF / group / f"{option}.yaml").exists(), option
    keys = keys_of("method") | keys_of("length_penalty") | set(groups) | {"KEY"}
    for name in re.findall(r"(?<![\w@.])method((?:\.\w+)+)(?==)", text):
        first, *rest = name.strip(".").split(".")
        assert first in keys, name
        assert not rest or rest[0] in keys_of(groups[first]) | {"KEY", "longest"}, name


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_are_there(page):
    text, place = PAGES[page], (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    named = re.findall(r"`((?:specexp|tests|conf|docs)/[\w/.-]+)(?:::\w+)?`", text)
    missing = [link for link in links if not (place / link).exists()]
    missing += [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


def test_the_index_and_the_site_name_every_page():
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")} - {"index.md"}
    assert not pages - set(re.findall(r"\]\((\w[\w-]*\.md)\)", PAGES["docs/index.md"]))
    assert not [page for page in pages if page not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")]
