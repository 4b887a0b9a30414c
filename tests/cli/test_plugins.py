"""Configurations from outside the project: an installed plugin's and those of --config-dir, alike in everything that shows choices."""

import importlib
import sys

import pytest
from omegaconf import OmegaConf

from specexp.cli.check import check_signatures
from specexp.cli.manual import manual
from specexp.cli.plugins import conf_folders, options, plugin_folders
from specexp.errors import UserError


def lay_out(folder):
    """A method and a sampling rule in a folder like conf/."""
    (folder / "sampling").mkdir(parents=True)
    (folder / "method").mkdir()
    (folder / "sampling" / "lukewarm.yaml").write_text("# From outside.\ndefaults: [multinomial]\ntemperature: 0.4\n")
    (folder / "method" / "borrowed.yaml").write_text("# From outside.\ndefaults: [speculative]\nname: borrowed\nbreadth: 3\n")
    return folder


def install(monkeypatch, site, module="borrowed_methods", conf=True):
    """A package as pip leaves it: a module, its conf folder, and the file that announces the entry point."""
    site.mkdir()
    (site / "borrowed_methods").mkdir()
    (site / "borrowed_methods" / "__init__.py").write_text("def listen(volume: int = 3):\n    return volume\n")
    if conf:
        lay_out(site / "borrowed_methods" / "conf")
    announced = site / "borrowed_methods-1.0.dist-info"
    announced.mkdir()
    (announced / "METADATA").write_text("Metadata-Version: 2.1\nName: borrowed-methods\nVersion: 1.0\n")
    (announced / "entry_points.txt").write_text(f"[specexp.plugins]\nborrowed = {module}\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()


@pytest.fixture(params=["plugin", "--config-dir"])
def brought(request, monkeypatch, tmp_path):
    """The arguments that a command line needs beside those of the test."""
    if request.param == "plugin":
        install(monkeypatch, tmp_path / "site")
        return ()
    return ("--config-dir", str(lay_out(tmp_path / "mine")))


def test_its_choices_are_listed(brought, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["specexp", *brought])
    text = manual(conf_folders())
    assert "lukewarm" in text and "borrowed" in text and "lukewarm" in options("sampling") and "greedy" in options("sampling")


def test_its_choices_compose(brought, command_line, capfd, monkeypatch):
    shown = []
    monkeypatch.setattr("specexp.experiment.job.run", lambda config, *_: shown.append(config))
    code, errors = command_line(*brought, "sampling=lukewarm", "max_new_tokens=4")
    assert (code, errors) == (0, "") and shown[0].sampling.temperature == 0.4


def test_an_unknown_choice_lists_its_own(brought, command_line):
    code, errors = command_line(*brought, "sampling=lukwarm")
    assert code == 1 and "sampling=lukwarm does not exist (did you mean lukewarm?); choose one of" in errors and "lukewarm" in errors.partition("choose")[2]


def test_a_misspelt_key_of_its_own_is_suggested(brought, command_line):
    code, errors = command_line(*brought, "method=borrowed", "method.bredth=4")
    assert code == 1 and "no key method.bredth (did you mean method.breadth?)" in errors
    code, errors = command_line(*brought, "method.breadth=4")
    assert code == 1 and "method.breadth is a key of method=borrowed only" in errors


def test_a_number_for_a_choice_lists_its_own(brought, command_line):
    code, errors = command_line(*brought, "sampling=3")
    assert code == 1 and "sampling=3 does not exist; choose one of" in errors and "lukewarm" in errors


def test_a_plugin_replaces_nothing_of_the_projects(monkeypatch, tmp_path, command_line):
    install(monkeypatch, tmp_path / "site")
    (tmp_path / "site" / "borrowed_methods" / "conf" / "sampling" / "greedy.yaml").write_text("# Mine.\ntemperature: 9\n")
    shown = []
    monkeypatch.setattr("specexp.experiment.job.run", lambda config, *_: shown.append(config))
    assert command_line("sampling=greedy")[0] == 0 and shown[0].sampling.temperature == 0


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module"])
def test_a_plugin_whose_module_is_gone_is_named(monkeypatch, tmp_path, command_line, module):
    install(monkeypatch, tmp_path / "site", module)
    code, errors = command_line()
    assert code == 1 and errors == f"specexp: the plugin borrowed names the module {module}, which is not there; install the plugin anew or uninstall it.\n"


def test_a_plugin_without_configurations_is_named(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path / "site", conf=False)
    with pytest.raises(UserError, match="the plugin borrowed has no folder .*conf; put its configurations there"):
        plugin_folders()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("no_such_module.f", "part._target_=no_such_module.f: the module no_such_module cannot be imported (No module named 'no_such_module'); put its directory on PYTHONPATH"),
        ("broken_module.f", "part._target_=broken_module.f: the module broken_module cannot be imported (No module named 'absent_dependency')"),
        ("unfinished_module.f", "part._target_=unfinished_module.f: the module unfinished_module cannot be imported ("),
        ("borrowed_methods.lissen", "part._target_=borrowed_methods.lissen: the module borrowed_methods has no lissen (did you mean listen?)"),
        ("listen", "part._target_=listen does not fit; give MODULE.NAME"),
        (3, "part._target_=3 does not fit; give MODULE.NAME"),
    ],
)
def test_a_function_that_cannot_be_had_is_one_sentence(monkeypatch, tmp_path, target, sentence):
    install(monkeypatch, tmp_path / "site")
    (tmp_path / "site" / "broken_module.py").write_text("import absent_dependency\n")
    (tmp_path / "site" / "unfinished_module.py").write_text("def f(:\n")
    with pytest.raises(UserError) as caught:
        check_signatures(OmegaConf.create({"part": {"_target_": target}}))
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)
    check_signatures(OmegaConf.create({"part": {"_target_": "borrowed_methods.listen", "volume": 4}}))


def test_a_missing_module_on_the_command_line(command_line, tmp_path):
    (tmp_path / "mine" / "sampling").mkdir(parents=True)
    (tmp_path / "mine" / "sampling" / "odd.yaml").write_text("# Mine.\n_target_: my_rules.odd\ntemperature: 1.0\n")
    code, errors = command_line("--config-dir", "mine", "sampling=odd")
    assert code == 1 and errors.startswith("specexp: sampling._target_=my_rules.odd: the module my_rules cannot be imported") and errors.count("\n") == 1


def test_a_file_that_is_not_yaml_names_its_line(command_line, tmp_path):
    (tmp_path / "mine" / "sampling").mkdir(parents=True)
    (tmp_path / "mine" / "sampling" / "odd.yaml").write_text("# Mine.\ntemperature: [1\nx: }\n")
    code, errors = command_line("--config-dir", "mine", "sampling=odd")
    assert code == 1 and "odd.yaml, line 3 is not YAML" in errors and errors.count("\n") == 1
    assert "method.gama" in command_line("--config-dir", "mine", "method.gama=3")[1]


def test_help_lists_what_is_there_whatever_the_files_hold(monkeypatch, tmp_path):
    (tmp_path / "method").mkdir()
    for name, text in {"empty": "# Mine.\n", "broken": "a: [\n", "listed": "- 1\n", "numbered": "_target_: 3\n", "unfinished": "_target_: unfinished_method.f\n"}.items():
        (tmp_path / "method" / f"{name}.yaml").write_text(text)
    (tmp_path / "unfinished_method.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = manual([tmp_path])
    assert all(f"\n  {name}" in shown for name in ("empty", "broken", "listed", "numbered", "unfinished"))
