"""Every YAML under conf/ is found by itself, composed, resolved, and each of its nodes bound to the signature it names."""

from inspect import isfunction, signature

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf
from options import CONF, OPTIONS, check_signatures

from specexp import methods
from specexp.cli.check import check, check_nodes
from specexp.cli.check import check_signatures as refuse_misfits
from specexp.decoding.protocols import Drafter, LengthRule, Verifier
from specexp.errors import UserError
from specexp.experiment.supply import LABEL, SUPPLIED, arguments_of, follows_sampling

CUSTOM = ["model_pair.target.name=target", "model_pair.draft.name=draft"]
METHODS = [option for group, option in OPTIONS if group == "method"]
POLICIES = [option for group, option in OPTIONS if group == "policy"]


def composed(*overrides, primary="config"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, overrides=list(overrides), return_hydra_config=False)


def parameters(node):
    """Of the function or class that a node names."""
    return signature(get_object(node["_target_"]), eval_str=True).parameters


def groups_of(method):
    """Places of a method's file that a group fills -> the group."""
    file = OmegaConf.load(CONF / "method" / f"{method}.yaml")
    chosen = [str(key).strip("/").partition("@") for one in file.get("defaults", []) if OmegaConf.is_dict(one) for key in one]
    return {place: group for group, _, place in chosen if place != "_here_"}


TAKE_A_POLICY = [name for name in METHODS if "policy" in parameters(composed(f"method={name}").method)]
PARTS = ("drafter", "length_penalty", "match", "policy", "storage", "text", "verifier")  # of methods, and texts of another command
WHOLE = [(group, option) for group, option in OPTIONS if group not in PARTS]


@pytest.mark.parametrize(("group", "option"), WHOLE, ids=["/".join(pair) for pair in WHOLE])
def test_every_option_composes_and_fits_its_signature(group, option):
    """As a user would choose it: settings that were found for one method on one pair come with the two."""
    pairs = [name for of, name in OPTIONS if of == "model_pair"]
    chosen = [f"{group}={option}"] if group != "tuned" else next(
        [f"method={method}", f"model_pair={pair}"] for method in METHODS for pair in pairs if f"{method}_{pair}" == option
    )  # fmt: skip
    config = composed(*chosen, *(CUSTOM if option == "custom" else []))
    assert_whole(config)
    if group == "tuned":
        tuned = OmegaConf.load(CONF / group / f"{option}.yaml")
        assert tuned and all(config.method[key] == value for key, value in tuned.method.items())


@pytest.mark.parametrize("group", PARTS)
def test_every_part_composes_and_fits_its_signature(group):
    """All options of a group beside one run, each at a place of its own."""
    options = [option for of, option in OPTIONS if of == group]
    config = composed(*[f"+{group}@part_{option}={option}" for option in options])
    assert_whole(config)
    assert all(config[f"part_{option}"] for option in options)


def assert_whole(config):
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    check_signatures(config)  # complete calls
    refuse_misfits(config)  # values of the right types, as the command line checks them


@pytest.mark.parametrize(("method", "chosen"), [*((name, ()) for name in METHODS), ("beam", ("length_penalty@method=power",))])
def test_a_methods_keys_are_its_functions_parameters(method, chosen):
    """All that a user can set can be seen, with its default, in the configuration; only what a job supplies is not there."""
    node = composed(f"method={method}", *chosen).method
    wanted = {name: one for name, one in parameters(node).items() if name not in SUPPLIED}
    assert set(node) <= {"_target_", LABEL, *wanted} and (chosen or node[LABEL] == method)
    values = OmegaConf.to_container(node, resolve=True)
    assert [name for name in wanted if name not in values and name not in groups_of(method)] == []  # a part may be none by default
    for name, one in wanted.items():  # and the function's own defaults are those of the configuration, so that neither page lies
        if name not in groups_of(method) and one.default is not one.empty:
            assert values[name] == (list(one.default) if isinstance(one.default, tuple) else one.default), name
        assert name in values or one.default is None


@pytest.mark.parametrize("method", METHODS)
def test_every_part_that_can_be_exchanged_has_a_group(method):
    """As the defaults of its file say: `verifier@method.verifier=...`."""
    node = composed(f"method={method}").method
    kinds = {"Verifier": "verifier", "Drafter": "drafter", "LengthRule": "policy", "Match": "match", "NgramStorage": "storage"}
    wanted = {
        name: group
        for name, one in parameters(node).items()
        for kind, group in kinds.items()
        if name not in SUPPLIED and kind in str(one.annotation).replace("]", ".").replace(" ", ".").replace("'", ".").split(".")
    }
    assert groups_of(method) == wanted


def test_every_method_has_a_configuration_and_one_function():
    functions = {name for name, one in vars(methods).items() if isfunction(one) and one.__module__ == methods.__name__ and name != "fixed"}
    targets = [composed(f"method={name}").method["_target_"] for name in METHODS] + ["specexp.methods.power_beam"]
    assert sorted(target.rpartition(".")[2] for target in targets) == sorted(functions)
    assert all(vars(methods)[name].__doc__ for name in functions)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", TAKE_A_POLICY)
def test_another_policy_takes_the_place_of_gamma(method, policy):
    config = composed(f"method={method}", f"policy@method.policy={policy}")
    refuse_misfits(config)
    assert issubclass(get_object(config.method.policy["_target_"]), LengthRule)


@pytest.mark.parametrize("method", TAKE_A_POLICY)
def test_without_a_policy_gamma_counts(method):
    node = composed(f"method={method}", "method.gamma=3").method
    assert node.get("policy") is None and node.gamma == 3


def test_a_policy_is_used_in_place_of_gamma():
    """What is built, that is; every method gives its policy to its drafter by the same function."""
    assert methods.fixed(4, None).length() == 4
    rule = methods.HeuristicLength(7)
    assert methods.fixed(4, rule) is rule


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("method.gamma=6", "policy@method.policy=egag"), "method.gamma=6 would be ignored, as method.policy is used in its place"),
        (("policy@method.policy=fixed", "++method.gamma=6"), "method.gamma=6 would be ignored"),
        (
            ("+method@baselines.second=nasd", "policy@baselines.second.policy=egag", "baselines.second.gamma=2"),
            "baselines.second.gamma=2 would be ignored, as baselines.second.policy is used",
        ),
    ],
)
def test_a_gamma_beside_a_policy_is_refused(overrides, told):
    with pytest.raises(UserError) as refused:
        check(composed(*overrides), overrides)
    assert told in str(refused.value) and "leave out one of the two" in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("policy@method.policy=egag",),
        ("policy@method.policy=egag", "method.policy.gamma_max=4"),
        ("method.gamma=6",),
        ("method.gamma=6", "+method@baselines.second=nasd", "policy@baselines.second.policy=egag"),
        ("policy@method.policy=egag", "~method.gamma"),
    ],
)
def test_one_of_the_two_is_no_mistake(overrides):
    check(composed(*overrides), overrides)


@pytest.mark.parametrize("supplied", sorted(SUPPLIED))
def test_what_a_job_supplies_is_nobodys_to_give(supplied):
    with pytest.raises(UserError, match=rf"method\.{supplied} does not exist.*method takes gamma, "):
        refuse_misfits(composed(f"+method.{supplied}=x"))


def test_the_name_is_a_label():
    config = composed("method.name=mine")
    refuse_misfits(config)
    assert LABEL not in arguments_of(config.method) and config.method[LABEL] == "mine"
    with pytest.raises(UserError, match="method.name=3 does not fit; give a text"):
        refuse_misfits(composed("method.name=3"))


@pytest.mark.parametrize("reviewer", [None, "lenient_argmax", "rejection", "lenient"])
@pytest.mark.parametrize("pair", ["tiny", "flan_t5_xxl", "llama7b_160m"])
def test_a_tuned_cascade_takes_any_reviewer(pair, reviewer):
    config = composed("method=csd", f"model_pair={pair}", *([] if reviewer is None else [f"verifier@method.reviewer={reviewer}"]))
    refuse_misfits(config)
    tuned = {"flan_t5_xxl": 2.0}.get(pair, 3.0)
    assert config.method.leniency == tuned
    if reviewer == "lenient_argmax":
        assert config.method.reviewer.leniency == tuned


def test_a_wrong_key_would_be_noticed():
    config = composed("+method.gama=3")
    with pytest.raises(pytest.fail.Exception, match="gama"):
        check_signatures(config)


def test_a_value_where_keys_belong_is_refused():
    with pytest.raises(UserError, match="method=3 does not fit"):
        check_nodes(OmegaConf.create({"method": 3}), ["method"])


def test_keys_without_a_class_are_no_object():
    config = composed()
    OmegaConf.update(config, "method.verifier", {"a": 1}, merge=False)
    with pytest.raises(UserError, match="method.verifier={'a': 1} does not fit"):
        refuse_misfits(config)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_as_method_and_as_baseline_keeps_its_own_values(method):
    """An absolute interpolation, such as ${method.gamma}, would leak from one side into the other."""
    config = composed(f"method={method}", f"method@baselines.eager={method}")
    handles = [key for key in config.method if type(config.method[key]) is int]
    for key in handles:
        config.method[key], config.baselines.eager[key] = 11, 22
    ours, theirs = (OmegaConf.to_yaml(arguments_of(node)) for node in (config.method, config.baselines.eager))
    assert ours.count(": 11") == len(handles) and ": 22" not in ours
    assert theirs.count(": 22") == len(handles) and ": 11" not in theirs


def test_every_yaml_says_what_it_is():
    silent = [str(file.relative_to(CONF)) for file in CONF.rglob("*.yaml") if not file.read_text(encoding="utf-8").startswith("#")]
    assert not silent


def test_parts_are_of_their_kind():
    """What stands in a group of parts is what its place takes."""
    for group, kind in (("verifier", Verifier), ("drafter", Drafter), ("policy", LengthRule)):
        for option in (option for of, option in OPTIONS if of == group):
            part = get_object(OmegaConf.load(CONF / group / f"{option}.yaml")["_target_"])
            assert callable(part) and hasattr(part, "lossless") if kind is Verifier else issubclass(part, kind), option


def test_a_leniency_beside_a_reviewer_that_has_none_is_refused():
    given = ("method=csd", "verifier@method.reviewer=rejection", "method.leniency=5")
    with pytest.raises(UserError, match="method.leniency=5 would be ignored, as method.reviewer is used in its place"):
        check(composed(*given), given)
    given = ("method=csd", "verifier@method.reviewer=lenient_argmax", "method.leniency=5")
    check(composed(*given), given)  # which reads the method's own


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("+method@baselines.x=endpoint",), "baselines.x decodes on a server, and the method decodes here"),
        (("method=endpoint", "+method@baselines.x=draft_alone"), "baselines.x decodes here, and the method on a server"),
        (("method=endpoint", "+baseline.foo=1"), "baseline.foo does not exist; baseline takes url, model, api_key_env"),
        (("model_pair.draft=null",), "model_pair.draft=null leaves the method without the draft model"),
        (("method=csd", "model_pair.draft=null"), "model_pair.draft=null leaves the method without the draft model"),
        (("method=max_gram", "method.match=null"), "method.match=null does not fit"),
        (("~method._target_",), "method names no function; choose a method by name"),
        (("method._target_=specexp.methods.nothing_like_it",), "the module specexp.methods has no nothing_like_it"),
        (("method._target_=no_such_module.method",), "the module no_such_module cannot be imported"),
        (("+method@baselines.x=hf_generate", "baselines.x._target_=no_such_module.method"), "baselines.x._target_=no_such_module.method"),
    ],
)
def test_a_method_or_a_baseline_that_cannot_run_is_refused(overrides, told):
    with pytest.raises(UserError) as refused:
        check(composed(*overrides), overrides)
    assert told in str(refused.value)


ALONE = ("model_pair=custom", "model_pair.target.name=asset:tiny/draft")


@pytest.mark.parametrize("overrides", [ALONE, ("model_pair.draft=null",), (*ALONE, "+method@baselines.b=tree", "method=nasd")])
def test_without_a_draft_model_it_is_said_which_methods_need_none(overrides):
    with pytest.raises(UserError, match="choose a method that needs no draft model") as refused:
        check(composed(*overrides), overrides)
    told = str(refused.value).partition("(method=")[2].partition(")")[0].split(", ")
    assert {"prompt_lookup", "max_gram", "nasd", "autoregressive"} <= set(told) and not {"speculative", "csd", "medusa", "endpoint"} & set(told)
    for method in told if overrides == ALONE else ():
        config = composed(*ALONE, f"method={method}")
        check(config)
        assert config.model_pair.draft is None and config.model_pair.name == "asset:tiny/draft"


@pytest.mark.parametrize(("primary", "key"), [("serve", "server.model"), ("chat", "model_pair.name"), ("config", "model_pair.name")])
def test_a_pair_of_ones_own_is_called_like_its_target(primary, key, tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    names = {str(tmp_path / "my-model"): "my-model", ".": "my-model", "../my-model/": "my-model", "someone/model": "someone/model"}
    for given, name in names.items():
        config = composed("model_pair=custom", f"model_pair.target.name={given}", "method=prompt_lookup", primary=primary)
        check(config)
        assert OmegaConf.select(config, key) == name
    config = composed("model_pair=custom", "model_pair.target.name=.", "method=prompt_lookup", "model_pair.name=mine", primary=primary)
    check(config)
    assert OmegaConf.select(config, key) == "mine"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("chat_template=3",), "chat_template=3 does not fit; give plain, a Jinja file, or null"),
        (("chat_template_args=3",), "chat_template_args=3 does not fit; give the arguments by name, {NAME: VALUE}, or null"),
        (("dataset.instruction=3",), "dataset.instruction=3 does not fit; give a text"),
    ],
)
def test_templates_and_their_arguments_are_checked_by_their_kind(overrides, words):
    with pytest.raises(UserError) as refused:
        check(composed(*overrides), overrides)
    assert words in str(refused.value)


def test_stand_ins_of_a_chat_pair_are_asked_raw():
    config = composed("model_pair=llama32_3b_1b")
    check(config)
    assert config.dataset.prompt_format == "chat"
    config = composed("model_pair=llama32_3b_1b", "model_pair.weights=standin")
    check(config)
    assert config.dataset.prompt_format == "raw"
    config = composed("method=endpoint", "model_pair=llama32_3b_1b")
    check(config)  # a server brings its own model
    assert config.dataset.prompt_format == "raw"


def test_a_plugins_function_needs_no_annotations():
    config = composed()
    config.method = {"_target_": "unannotated.plain", "name": "plain", "gamma": 3}
    check(config)
    assert follows_sampling(config.method)
