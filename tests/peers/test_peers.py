"""transformers' own loops as decoders: the text is ours, times are those of the emissions, knobs arrive, nothing is left behind."""

import copy
import json
from collections import Counter
from itertools import pairwise
from time import perf_counter
from types import SimpleNamespace

import pytest
import torch
import transformers
from beside_peers import GREEDY, PROMPT, SOFT, at_end, near, never, ours, state, steps_of, text
from running import composed, run
from scipy.stats import chisquare
from tiers import tiered
from tiny_models import CONFIGS, ENCODER_DECODER, build, build_encoder_decoder

from specexp.decoding.protocols import Cut
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.peers.assisted import Assistant, AssistantKnobs, AssistedGenerate
from specexp.peers.early_exit import EarlyExit, ExitKnobs
from specexp.peers.generate import OwnCache, PromptLookup, TransformersGenerate
from specexp.peers.onnx_conversion import is_old
from specexp.peers.request import SharedModel, shared_model
from specexp.runners.caches import held_bytes
from specexp.runners.lengths import slides
from specexp.runners.runner import ModelRunner
from specexp.runners.sink import SinkRunner
from specexp.tracking.records import read_records

EARLY = ("llama", "qwen2", "qwen3", "mistral", "phi", "mistral_sliding")  # heed config.num_hidden_layers








def plain(model, kind="dynamic"):
    return TransformersGenerate(SharedModel(model), OwnCache(kind))


def assisted(model, draft, gamma=3, schedule="constant", threshold=0.0):
    return AssistedGenerate(SharedModel(model), Assistant(SharedModel(draft), AssistantKnobs(gamma, schedule, threshold)))


def lookup(model, gamma=10, max_ngram=2):
    return AssistedGenerate(SharedModel(model), PromptLookup(gamma, max_ngram))


def early(model, **knobs):
    target = SharedModel(model)
    return AssistedGenerate(target, EarlyExit(target, ExitKnobs(**knobs)))


def can_exit(config):
    return config.model_type in EARLY and not (is_old() and getattr(config, "layer_types", None))


def peers(model):
    """Every way that is possible, by name; the draft models agree with the target now and then."""
    if is_old() and (model.config.is_encoder_decoder or slides(model.config)):
        return {"generate": plain(model)}
    found = {
        "generate": plain(model),
        "assisted": assisted(model, near(model)),
        "assisted, default": AssistedGenerate(SharedModel(model), Assistant(SharedModel(near(model)))),
        "assisted, heuristic": assisted(model, near(model), schedule="heuristic"),
        "lookup": lookup(model),
    }
    return found | ({"early exit": early(model)} if can_exit(model.config) else {})








@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_text_is_ours(kind):
    model = build(kind)
    expected = ours(model)
    for name, decoder in peers(model).items():
        steps = steps_of(decoder)
        assert text(steps) == expected and len(expected) == 40, name
        assert [step.finish for step in steps] == [None] * (len(steps) - 1) + ["length"]


@pytest.mark.parametrize("kind", tiered(ENCODER_DECODER, ["gated_untied"]))
def test_greedy_text_of_an_encoder_decoder_model_is_ours(kind):
    model = build_encoder_decoder(kind)
    for decoder in peers(model).values():
        assert text(steps_of(decoder)) == ours(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "qwen3"])
def test_greedy_text_with_a_static_cache_is_ours(kind):
    model = build(kind)
    decoder = plain(model, kind="static")
    for tokens in (40, 7, 60):
        assert text(steps_of(decoder, tokens)) == ours(model, tokens=tokens)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("prompt", [[5], PROMPT, PROMPT * 9])
def test_exactly_as_many_tokens_as_asked_for(tokens, prompt):
    model = build("llama")
    for decoder in peers(model).values():
        assert text(steps_of(decoder, tokens, prompt=prompt)) == ours(model, tokens=tokens, prompt=prompt)


def test_text_ends_at_the_models_end_id_and_runs_on_where_it_is_ignored():
    model = build("llama")
    whole = ours(model)
    end = next(token for i, token in enumerate(whole) if i > 8 and token not in whole[:i])  # its first time inside the text
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [1, end], end
    draft = near(model)
    draft.generation_config.eos_token_id = end
    for name, decoder in peers(model).items():
        steps = steps_of(decoder, stop=at_end({end}))
        assert text(steps) == whole[: whole.index(end) + 1] and steps[-1].finish == "eos", name
        assert text(steps_of(decoder)) == whole, name  # ends for nobody: drafts run on, too
    drafted = [step.drafted for step in steps_of(assisted(model, draft))]
    assert drafted == [min(3, left) for left in drafted[:-1]] + drafted[-1:]


def test_stops_anywhere_are_obeyed_and_their_tokens_kept():
    model = build("llama")
    whole = ours(model)

    def stop(ids, since):
        found = [i + 1 for i in range(since, len(ids)) if ids[: i + 1][-2:] == whole[11:13]]
        return Cut(found[0], "stop") if found else None

    expected = ours(model, stop=stop)
    assert len(expected) < len(whole)
    for decoder in (*peers(model).values(), assisted(model, model, gamma=9)):
        steps = steps_of(decoder, stop=stop)
        assert text(steps) == expected and steps[-1].finish == "stop"


def test_emissions_are_timed_when_they_happen():
    model = build("llama")
    for name, decoder in peers(model).items():
        steps_of(decoder)
        began = perf_counter()
        times = [began, *(step.emitted for step in steps_of(decoder)), perf_counter()]
        assert len(times) > 10 and all(one < two for one, two in pairwise(times)), name
        assert times[1] - began < 0.5 * (times[-1] - began), name  # the first long before the last


def test_constant_schedule_drafts_as_told_and_all_of_a_perfect_draft_is_accepted():
    model = build("llama")
    for gamma in (1, 4, 9):
        steps = steps_of(assisted(model, copy.deepcopy(model), gamma=gamma), tokens=41)
        assert {step.drafted for step in steps[:-1]} == {gamma} and all(step.accepted == step.drafted for step in steps)
        assert [step.origins for step in steps[:-1]] == [("draft",) * gamma + ("bonus",)] * (len(steps) - 1)


@pytest.mark.parametrize("stop", [never, at_end({1})])
def test_a_draft_sees_the_whole_prompt(stop):
    """Also the id for padding: left to itself, transformers hides it from the draft model, whose guesses are the worse for it."""
    model, prompt = build("llama"), [0, 5, 0, 17, 33, 0, 17]
    steps = steps_of(assisted(model, copy.deepcopy(model), gamma=4), tokens=41, stop=stop, prompt=prompt)
    assert model.generation_config.pad_token_id == 0 and all(step.accepted == step.drafted for step in steps)
    assert text(steps) == ours(model, tokens=41, stop=stop, prompt=prompt)


def test_knobs_are_read():
    model = build("llama")
    draft = copy.deepcopy(model)
    for parameter in draft.parameters():
        parameter.mul_(0.7)  # the same guesses, less sure of them
    longest = steps_of(assisted(model, draft, gamma=20, threshold=0.0), tokens=60)
    assert longest[0].drafted == 20
    timid = steps_of(assisted(model, draft, gamma=20, threshold=0.999), tokens=60)
    assert timid[0].drafted < 20
    growing = assisted(model, copy.deepcopy(model), gamma=2, schedule="heuristic")
    first, second = ([step.drafted for step in steps_of(growing, tokens=60)] for _ in range(2))
    assert first[:4] == [2, 4, 6, 8] and second[0] == 2 + 2 * len(first)  # transformers goes on where the last text ended
    transient = assisted(model, copy.deepcopy(model), gamma=2, schedule="heuristic_transient")
    assert [[step.drafted for step in steps_of(transient, tokens=60)][:3] for _ in range(2)] == [[2, 4, 6]] * 2
    assert max(step.drafted for step in steps_of(lookup(model, gamma=6), tokens=80, prompt=PROMPT * 4)) == 6


def test_the_defaults_are_transformers_own():
    own, ours = transformers.GenerationConfig._get_default_generation_params(), AssistantKnobs().settings()
    assert ours == {key: own[key] for key in ours}




@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, top_k=7, top_p=0.9)])
def test_nothing_is_left_behind(sampling, recwarn, caplog, capfd):
    """On neither model, nor in torch's randomness; nor is anything said."""
    model = build("llama")
    model.generation_config.update(repetition_penalty=3.0, top_k=2, temperature=0.2, do_sample=True)  # as a checkpoint may have it
    draft = near(model)
    for decoder in (*peers(model).values(), assisted(model, draft), plain(model, "static")):
        transformers.utils.logging.warning_once.cache_clear()
        before, random = (state(model), state(draft)), torch.get_rng_state()
        steps_of(decoder, sampling=sampling)
        assert (state(model), state(draft)) == before and torch.equal(torch.get_rng_state(), random)
    assert not recwarn.list and not caplog.records and "".join(capfd.readouterr()) == ""


def test_settings_of_a_checkpoint_do_not_leak_in():
    model = build("llama")
    expected = ours(model)
    model.generation_config.update(repetition_penalty=3.0, no_repeat_ngram_size=2, num_assistant_tokens=2, min_new_tokens=20)
    for decoder in peers(model).values():
        assert text(steps_of(decoder)) == expected


def test_models_are_restored_when_a_request_fails():
    model = build("llama")
    draft = near(model)

    def broken(ids, since):
        if len(ids) > 12:
            raise KeyError("stop")
        return None

    for decoder in (*peers(model).values(), assisted(model, draft)):
        before = state(model), state(draft)
        with pytest.raises(KeyError):
            steps_of(decoder, stop=broken)
        assert (state(model), state(draft)) == before
    decoder = early(model)
    with pytest.raises(RuntimeError, match="inside a draft"):
        fail = model.model.norm.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("inside a draft")))
        steps_of(decoder)
    fail.remove()
    assert model.config.num_hidden_layers == 2


@pytest.mark.parametrize("name", ["generate", "assisted", "lookup", "early exit"])
def test_sampling_is_repeated_by_its_seed(name):
    decoder = peers(build("llama"))[name]
    texts = [tuple(text(steps_of(decoder, seed=seed, sampling=SOFT))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def watching(model, name, passed):
    return model.register_forward_hook(lambda *_: passed.append(name))


def test_passes_and_cache_bytes_are_as_counted():
    model, draft = build("llama"), build("llama", 1)
    for name, decoder in (peers(model) | {"unlike": assisted(model, draft)}).items():
        drafting = next(iter(decoder.drafter.models.values()), None)
        watched = {"target": model} | ({} if drafting is None or name == "early exit" else {"draft": drafting.model})
        passed = []
        hooks = [watching(m, key, passed) for key, m in watched.items()]
        steps = steps_of(decoder)
        [hook.remove() for hook in hooks]
        counted = Counter(passed)
        forwards = 0 if drafting is None else drafting.forwards
        expected = counted["target"] - forwards if name == "early exit" else counted["target"]
        assert decoder.target.forwards == expected == len(steps), name
        assert name == "early exit" or forwards == counted["draft"], name
    runner = ModelRunner(model)
    ours(model, runner=lambda _: runner)
    assert plain_bytes(model) == runner.kv_bytes


def plain_bytes(model):
    decoder = plain(model)
    steps_of(decoder)
    return decoder.target.kv_bytes


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in EARLY])
def test_early_exit_is_refused_where_transformers_cannot_do_it(kind):
    model = build(kind)
    with pytest.raises(UserError, match=r"cannot leave a \w+ model early \(it ran 2 layers instead of 1\)"):
        early(model)
    assert state(build(kind))[2] == model.config.to_dict()


def test_early_exit_runs_the_first_layers_only():
    model = build("llama", num_hidden_layers=4)
    decoder = early(model, layers=1, gamma=3, confidence_threshold=0.0)
    assert {step.drafted for step in steps_of(decoder)[:9]} == {3}  # near the end fewer are left
    [drafting] = decoder.drafter.models.values()
    assert 0 < drafting.kv_bytes < decoder.target.kv_bytes / 3
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert drafting.model.num_parameters() == model.num_parameters() - 3 * layer
    with pytest.raises(UserError, match="layers=4 are all that the target has"):
        early(model, layers=4)


def test_another_size_of_vocabulary_is_refused():
    with pytest.raises(UserError, match="have 96 and 128; choose another draft, or method=speculative"):
        assisted(build("llama"), build("llama", vocab_size=128))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: lookup(build_encoder_decoder("mt5")), "assisted generation with an encoder-decoder model"),
        (lambda: lookup(build("mistral_sliding")), "assisted generation with a sliding window"),
        (lambda: early(build("qwen3")), "leaving a model early whose configuration lists its layers"),
    ],
)
def test_what_an_older_transformers_crashes_in_is_refused(make, told, monkeypatch):
    make() if not is_old() else None
    monkeypatch.setattr(is_old.__globals__["transformers"], "__version__", "5.17.0")  # the very module that is asked
    with pytest.raises(UserError, match=f"transformers 5.17.0 crashes in {told}; install transformers 5.23 or later"):
        make()


def test_a_streaming_cache_is_refused():
    model = build("llama")
    with pytest.raises(UserError, match="cache=sink changes the model.*cache=full"):
        shared_model(SinkRunner(model))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AssistantKnobs(gamma=0), "gamma=0"),
        (lambda: AssistantKnobs(schedule="linear"), "schedule=linear .* constant, heuristic, heuristic_transient"),
        (lambda: AssistantKnobs(confidence_threshold=1.5), "confidence_threshold=1.5"),
        (lambda: PromptLookup(gamma=0), "gamma=0"),
        (lambda: PromptLookup(max_ngram=0), "max_ngram=0"),
        (lambda: ExitKnobs(layers=0), "layers=0"),
        (lambda: OwnCache("quantized"), "cache=quantized"),
    ],
)
def test_bad_values_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def small_model(seed):
    model = build("llama", seed, vocab_size=5, num_hidden_layers=2)
    for parameter in model.parameters():
        parameter.mul_(0.6)  # laws that are neither flat nor one-hot
    return model


def law(model, sampling, prompt, length):
    """text -> probability, of all texts of `length` tokens."""
    found = {(): 1.0}
    for _ in range(length):
        laws = {ids: sampling(model(torch.tensor([[*prompt, *ids]])).logits[0, -1].double()) for ids in found}
        found = {(*ids, token): p * float(q) for ids, p in found.items() for token, q in enumerate(laws[ids]) if q > 0}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SOFT, Sampling(0.7, top_p=0.9)], ids=["plain", "nucleus"])
@pytest.mark.parametrize("name", ["generate", "assisted", "lookup", "early exit"])
def test_sampled_texts_have_the_targets_law(name, sampling):
    """Whole texts of 3 tokens, so that drafts of two are verified. 600 of them find a gross bias only."""
    model, prompt, length, samples = small_model(0), [3, 1, 3, 1, 2, 3], 3, 600
    decoder = peers(model)[name]
    if name == "assisted":
        decoder = assisted(model, small_model(1))
    wanted = law(model, sampling, prompt, length)
    counts = dict.fromkeys(wanted, 0)
    for seed in range(samples):
        counts[tuple(text(steps_of(decoder, length, seed=seed, prompt=prompt, sampling=sampling)))] += 1
    pairs = [(counts[ids], p * samples) for ids, p in wanted.items()]
    common, rare = [pair for pair in pairs if pair[1] >= 5], [pair for pair in pairs if pair[1] < 5]
    observed, expected = zip(*common, *([tuple(map(sum, zip(*rare, strict=True)))] if rare else []), strict=True)
    scale = sum(observed) / sum(expected)
    assert chisquare(observed, [value * scale for value in expected]).pvalue > 1e-4


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run: our method against three peers at once."""
    directory = tmp_path_factory.mktemp("peers")
    further = [f"+method@baselines.{name}=hf_{name}" for name in ("generate", "assisted", "prompt_lookup")]
    knobs = ["baselines.assisted.gamma=4", "baselines.assisted.confidence_threshold=0", "method.gamma=4"]
    run(composed("max_new_tokens=16", *further, *knobs), directory)
    return directory


@pytest.mark.slow
def test_peers_are_further_baselines_of_a_run(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for record in read_records(finished):
        ours, assisted = record.method, record.sides["baseline_assisted"]
        for name in ("generate", "assisted", "prompt_lookup"):
            side = record.sides[f"baseline_{name}"]
            assert side.token_ids == ours.token_ids and side.lossless
            assert side.mean("decode_seconds") > 0 and side.mean("target_seconds") is None and side.kv_bytes_target > 0
        assert assisted.repeats[0].first_tokens == 1 + assisted.rounds[0][1] and assisted.mean("draft_seconds") > 0
        assert assisted.draft_forwards_by_model == {"draft": sum(drafted for drafted, _ in assisted.rounds)}
        assert record.sides["baseline_generate"].kv_bytes_target == record.baseline.kv_bytes_target
    assert summary["equal_texts_vs_assisted"] == 1.0 and summary["speedup_vs_generate"] > 0


def test_a_run_tells_what_its_peers_were(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["peers"]["assisted"] == {"gamma": 4, "schedule": "constant", "confidence_threshold": 0}
    assert set(environment["peers"]) == {"generate", "assisted", "prompt_lookup"}
    assert "scikit-learn" in environment["versions"]  # with it transformers adapts the confidence threshold


@pytest.mark.parametrize("method", ["hf_generate", "hf_assisted", "hf_prompt_lookup", "hf_early_exit"])
@pytest.mark.parametrize("sampling", tiered(["greedy", "nucleus"], ["greedy"]))
def test_peers_are_methods_of_a_run(method, sampling, tmp_path):
    run(composed(f"method={method}", f"sampling={sampling}", "max_new_tokens=12", "ignore_eos=true"), tmp_path)
    summary, records = json.loads((tmp_path / "summary.json").read_text()), read_records(tmp_path)
    assert len(records) == 2 and all(len(record.method.token_ids) == 12 for record in records)
    assert summary["lossless"] and summary["speedup"] > 0 and (sampling != "greedy" or summary["equal_texts"] == 1.0)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=hf_assisted", "method.schedule=linear"], "schedule=linear"),
        (["method=hf_assisted", "method.gamma=0"], "gamma=0"),
        (["method=hf_generate", "method.cache=sliding"], "cache=sliding"),
        (["method=hf_early_exit", "method.layers=0"], "layers=0"),
        (["method=hf_prompt_lookup", "method.max_ngram=few"], "method.max_ngram=few"),
        (["method=hf_generate", "cache=sink"], "cache=sink changes the model, and no other engine knows such a cache"),
        (["cache=sink", "+method@baselines.generate=hf_generate"], "cache=sink changes the model"),
    ],
)
def test_bad_values_are_refused_before_any_weights(overrides, told, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.models.loading.load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=told):
        run(composed(*overrides), tmp_path)


def test_the_bytes_of_layers_without_keys_of_their_own():
    """As gemma3n's layers that share another's keys are, and layers with states, and a model that hands out no cache."""
    keyed = SimpleNamespace(keys=torch.zeros(1, 2, 8, 4), values=torch.zeros(1, 2, 8, 4), is_sliding=False)
    stateful = SimpleNamespace(conv_states={0: torch.zeros(3, 4), 1: None}, recurrent_states={0: torch.zeros(5)})
    assert held_bytes(SimpleNamespace(layers=[keyed, SimpleNamespace(keys=None), stateful]), 6) == 2 * (2 * 6 * 4) * 4 + (12 + 5) * 4
    assert held_bytes(None, 6) == 0 and held_bytes(SimpleNamespace(), 6) == 0
