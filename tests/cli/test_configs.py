"""Every YAML under conf/ is found by itself, composed, resolved, and each of its nodes bound to the signature it names."""


import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from options import CONF, OPTIONS, check_signatures

from specexp.cli.check import check_nodes
from specexp.cli.check import check_signatures as refuse_misfits
from specexp.errors import UserError

CUSTOM = ["model_pair.target.name=target", "model_pair.draft.name=draft"]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=False)






PARTS = ("drafter", "length_penalty", "match", "policy", "storage", "text", "verifier", "shape", "growth")  # of methods
WHOLE = [(group, option) for group, option in OPTIONS if group not in PARTS]


@pytest.mark.parametrize(("group", "option"), WHOLE, ids=["/".join(pair) for pair in WHOLE])
def test_every_option_composes_and_fits_its_signature(group, option):
    """As a user would choose it."""
    assert_whole(composed(f"{group}={option}", *(CUSTOM if option == "custom" else [])))


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


@pytest.mark.parametrize("policy", [option for group, option in OPTIONS if group == "policy" and "heuristic" not in option and option != "fixed"])
@pytest.mark.parametrize("method", ["speculative", "nasd", "max_gram", "katz", "prompt_lookup"])
def test_another_policy_is_chosen_with_the_fixed_ones_handle_taken_out(method, policy):
    config = composed(f"method={method}", f"policy@method.policy={policy}", "~method.decoder.drafter.policy.gamma")
    refuse_misfits(config)


@pytest.mark.parametrize("reviewer", ["lenient_argmax", "rejection", "lenient"])
@pytest.mark.parametrize("pair", ["tiny", "flan_t5_xxl", "llama7b_160m"])
def test_a_tuned_cascade_takes_any_reviewer(pair, reviewer):
    config = composed("method=csd", f"model_pair={pair}", f"verifier@method.reviewer={reviewer}")
    refuse_misfits(config)
    if reviewer == "lenient_argmax":
        assert config.method.decoder.drafter.reviewer.leniency == {"flan_t5_xxl": 2.0}.get(pair, 3.0)


def test_a_wrong_key_would_be_noticed():
    config = composed("+method.decoder.drafter.gama=3")
    with pytest.raises(pytest.fail.Exception, match="gama"):
        check_signatures(config)


def test_a_value_where_keys_belong_is_refused():
    with pytest.raises(UserError, match="method=3 does not fit"):
        check_nodes(OmegaConf.create({"method": 3}), ["method"])


def test_keys_without_a_class_are_no_object():
    config = composed()
    OmegaConf.update(config, "method.decoder.target", {"a": 1}, merge=False)
    with pytest.raises(UserError, match="method.decoder.target={'a': 1} does not fit"):
        refuse_misfits(config)


@pytest.mark.parametrize("method", [option for group, option in OPTIONS if group == "method"])
def test_a_method_as_method_and_as_baseline_keeps_its_own_values(method):
    """Handles are read by relative interpolation: an absolute one would leak from one side into the other."""
    config = composed(f"method={method}", f"method@baselines.eager={method}")
    handles = [key for key in config.method if key not in ("decoder", "name") and type(config.method[key]) is int]
    for key in handles:
        config.method[key], config.baselines.eager[key] = 11, 22
    ours, theirs = (OmegaConf.to_yaml(OmegaConf.create(OmegaConf.to_container(node.decoder, resolve=True))) for node in (config.method, config.baselines.eager))
    assert ours.count(": 11") == len(handles) and ": 22" not in ours
    assert theirs.count(": 22") == len(handles) and ": 11" not in theirs


def test_every_yaml_says_what_it_is():
    silent = [str(file.relative_to(CONF)) for file in CONF.rglob("*.yaml") if not file.read_text(encoding="utf-8").startswith("#")]
    assert not silent
