"""README and docs: every command that they show can be composed, every link and every file that they name is there, the index names all pages."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiers import tiered

from specexp.cli.messages import conf_directory

ROOT = Path(__file__).parents[2]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
CONFIGURATIONS = {"specexp": "config", "specexp.chat": "chat", "specexp.serve": "serve"}
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="needs the checkout, not the source distribution")


def commands(text):
    """(module, arguments) of each `python -m specexp...` in a block of code or in a line, comments and pipes left out."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(python -m [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S).replace("\n", " "))
    for line in lines:
        for part in line.partition(" > ")[0].split(" && "):
            words = shlex.split(part.partition(" | ")[0], comments=True)
            if words[:2] == ["python", "-m"] and words[2].startswith("specexp"):
                yield words[2], words[3:]


def overrides(arguments):
    """Of a sweep, the first job's."""
    parser = OverridesParser.create()
    for text in arguments:
        if text == "-m":
            continue
        text = text.replace("=PAIR", "=tiny")
        override = parser.parse_override(text)
        yield f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}" if override.is_sweep_override() else text


@pytest.mark.parametrize("page", tiered(PAGES, {"README.md", "docs/index.md", "docs/papers.md"}))
def test_the_commands_of_a_page_can_be_composed(page):
    for module, arguments in commands(page):
        name = CONFIGURATIONS.get(module)
        if name is None or any(argument.startswith("--") or "NAME" in argument or argument == "..." for argument in arguments):
            continue  # another command, one that composes nothing, or a pattern
        GlobalHydra.instance().clear()
        with initialize_config_dir(conf_directory(), version_base="1.3"):
            compose(name, overrides=list(overrides(arguments)))


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
