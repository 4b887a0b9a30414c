"""onnxruntime-genai as a decoder: the text is ours, counts are the engine's, conversions are kept, what it cannot do is refused."""

import copy
import json
import logging
from itertools import pairwise
from time import perf_counter

import pytest
import torch
from beside_peers import PROMPT, at_end, near, ours, state, steps_of, text
from running import composed, run
from tiny_models import build as build_tiny
from tiny_models import build_encoder_decoder

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.models.spec import LlamaShape
from specexp.models.standin import grow
from specexp.peers import onnx_session, ort
from specexp.peers.ort import Alone, DraftModel, NgramLookup, OrtGenerate, OrtSettings, Width
from specexp.peers.request import SharedModel
from specexp.runners.llama import LlamaPass
from specexp.runners.runner import ModelRunner
from specexp.tracking.records import read_records

installed = pytest.mark.skipif(ort.missing() is not None, reason=f"needs the extra `peers`: {ort.missing()} is not installed")
KINDS = ("llama", "qwen2", "qwen3", "mistral", "phi")


def build(kind, **changes):
    """With heads of a size that the engine takes (Phi turns half of each), and the end that it insists on."""
    wide = 2 if kind == "phi" else 1
    return build_tiny(kind, hidden_size=64 * wide, head_dim=16 * wide, eos_token_id=1, **changes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where converted models are kept."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def engine(kept):
    """(model, drafter) -> decoder."""
    return lambda model, drafter=Alone(): OrtGenerate(SharedModel(model), OrtSettings(str(kept)), drafter)


def drafting(model, gamma=3):
    return DraftModel(SharedModel(model), Width(gamma))


def ways(model):
    return {"alone": Alone(), "draft": drafting(near(model)), "perfect draft": drafting(copy.deepcopy(model), 5), "lookup": NgramLookup(Width(6), 2)}


@installed
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if kind == "llama" else pytest.mark.slow) for kind in KINDS])
def test_greedy_text_is_ours(kind, engine):
    model = build(kind)
    for tokens in (1, 2, 40):
        expected = ours(model, tokens=tokens)
        for name, drafter in ways(model).items():
            steps = steps_of(engine(model, drafter), tokens)
            assert text(steps) == expected and len(expected) == tokens, name
            assert [step.finish for step in steps] == [None] * (len(steps) - 1) + ["length"]


@installed
def test_a_text_ends_where_the_stop_says_and_nowhere_else(engine):
    model = build("llama")
    whole = ours(model)
    end = next(token for i, token in enumerate(whole) if i > 8 and token not in whole[:i])
    model.generation_config.eos_token_id = model.config.eos_token_id = end  # the engine's own end, too
    for drafter in ways(model).values():
        steps = steps_of(engine(model, drafter), stop=at_end({end}))
        assert text(steps) == whole[: whole.index(end) + 1] and steps[-1].finish == "eos"
        assert text(steps_of(engine(model, drafter))) == whole


@installed
def test_counts_of_a_perfect_draft(engine):
    model = build("llama")
    decoder = engine(model, drafting(copy.deepcopy(model), 4))
    steps = steps_of(decoder, tokens=41)
    assert [step.counts for step in steps] == [[4, 4]] * 8 + [[1, 1]]
    assert [step.origins for step in steps[:8]] == [("draft",) * 4 + ("bonus",)] * 8
    assert decoder.target.forwards == 1 + len(steps) and decoder.drafter.model.forwards == 41  # the prompt, and all tokens but the last
    slot = 2 * 2 * 2 * 16 * 4  # keys and values, layers, key heads, their size, float32
    assert decoder.target.kv_bytes == (len(PROMPT) + 41) * slot


@installed
def test_counts_without_a_draft_model(engine):
    model = build("llama")
    alone = engine(model)
    assert all(step.drafted == 0 and step.target_seconds is None for step in steps_of(alone))
    assert alone.target.forwards == 40 and alone.drafter.models == {}
    lookup = engine(model, NgramLookup(Width(6), 2))
    steps = steps_of(lookup, prompt=PROMPT * 4)
    assert 0 < sum(step.accepted for step in steps) <= sum(step.drafted for step in steps) and max(step.drafted for step in steps) == 6
    assert len(steps) <= lookup.target.forwards <= 2 * len(steps)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("ends", [(), (23,)], ids=["no end inside", "over an end"])
def test_passes_are_the_runs_in_onnx_runtimes_profile(ends, kept, tmp_path, monkeypatch):
    plain = onnx_session._decoder

    def profiled(converted, name, threads):
        decoder = plain(converted, name, threads)
        return decoder | {"session_options": decoder["session_options"] | {"enable_profiling": str(tmp_path / name)}}

    monkeypatch.setattr(onnx_session, "_decoder", profiled)
    model = build("llama")
    model.generation_config.eos_token_id = model.config.eos_token_id = next(iter(ends), 1)
    lookups = [NgramLookup(Width(gamma), ngram) for gamma in (1, 2, 6) for ngram in (2, 3)]
    for drafter in (*ways(model).values(), drafting(near(model), 1), *lookups):
        for tokens in (2, 40):
            onnx_session.session.cache_clear()
            decoder = OrtGenerate(SharedModel(model), OrtSettings(str(kept)), drafter)
            for draft in drafter.models.values():
                draft.forwards = 0
            steps_of(decoder, tokens, prompt=PROMPT * 3)
            counted = {"target": decoder.target.forwards} | {name: draft.forwards for name, draft in drafter.models.items()}
            decoder._session = None
            onnx_session.session.cache_clear()  # writes the profiles
            assert counted == {name: runs(tmp_path, name) for name in counted}, (drafter, tokens)


def runs(directory, name):
    """Of that model's graph, in the profile written last, which is taken away."""
    [file] = directory.glob(f"{name}*")
    found = sum(event.get("name") == "model_run" for event in json.loads(file.read_text()))
    file.unlink()
    return found


@installed
def test_rounds_are_timed_when_they_happen(engine):
    model = build("llama")
    for drafter in ways(model).values():
        decoder = engine(model, drafter)
        began = perf_counter()
        times = [began, *(step.emitted for step in steps_of(decoder)), perf_counter()]
        assert len(times) > 7 and all(one < two for one, two in pairwise(times))


@installed
def test_a_model_is_converted_once_and_by_its_weights(tmp_path, caplog, capfd):
    """Also one whose weights our own passes have moved together, which stays as it is."""
    model, settings = build("llama"), OrtSettings(str(tmp_path))
    runner = ModelRunner(model)
    assert LlamaPass.runs(model) and runner.model is model
    weights, others = {key: value.clone() for key, value in model.state_dict().items()}, state(model)
    with caplog.at_level(logging.INFO, "specexp"):
        for _ in range(2):
            OrtGenerate(SharedModel(model), settings)
            OrtGenerate(SharedModel(copy.deepcopy(model)), settings)
        assert [record.message.split(" MB")[0] for record in caplog.records] == ["converting a llama model (0"]
        OrtGenerate(SharedModel(near(model)), settings)
    assert len(caplog.records) == 2 and len([*tmp_path.glob("*/*")]) == 2
    assert capfd.readouterr().out == ""
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items()) and state(model) == others


@installed
def test_what_cannot_be_converted_is_refused(tmp_path):
    settings = OrtSettings(str(tmp_path))
    with pytest.raises(UserError, match="builder does not know GPT2LMHeadModel; choose another pair"):
        OrtGenerate(SharedModel(build_tiny("gpt2")), settings)
    with pytest.raises(UserError, match="cannot run this llama model .head_size shall be a multiple of 16.*; choose another pair"):
        OrtGenerate(SharedModel(build_tiny("llama")), settings)
    standin = grow(build("llama"), LlamaShape(2, 128, 96, 4, 2, 32, 96, False), torch.float32, "cpu")
    with pytest.raises(UserError, match="makes another function of this llama model.*choose another pair"):
        OrtGenerate(SharedModel(standin), settings)
    assert [*tmp_path.glob("*/*")] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no converted model can be kept in .*method.directory=DIR"):
        OrtGenerate(SharedModel(build("llama")), OrtSettings(str(tmp_path / "file")))


@installed
def test_what_would_be_no_fair_comparison_is_refused(engine):
    with pytest.raises(UserError, match="decoder-only models, and mt5 is none"):
        engine(build_encoder_decoder("mt5"))
    with pytest.raises(UserError, match="the model is bfloat16 on cpu; give dtype=float32 device=cpu"):
        engine(build("llama", dtype=torch.bfloat16))
    with pytest.raises(UserError, match="have 96 and 128; choose another draft"):
        engine(build("llama"), drafting(build("llama", vocab_size=128)))


@installed
def test_sampling_is_refused(engine):
    with pytest.raises(UserError, match="greedily only, and temperature=0.8 samples; choose sampling=greedy"):
        engine(build("llama")).check(Sampling(0.8))


def test_a_missing_package_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setattr(ort, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnxruntime_genai, which is not installed: pip install 'specexp\[peers\]'"):
        OrtSettings()


@pytest.mark.parametrize(
    ("make", "told"),
    [(lambda: Width(0), "gamma=0"), (lambda: Width(17), "gamma=17 .* give 1 to 16"), (lambda: NgramLookup(ngram=1), "ngram=1 .* give 2 to 16")],
)
def test_bad_values_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


@installed
@pytest.mark.parametrize(("override", "told"), [("method.gamma=17", "gamma=17"), ("sampling=nucleus", "greedily only")])
def test_bad_values_are_refused_before_any_weights(override, told, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.models.loading.load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=told):
        run(composed("method=ort", override), tmp_path)


@installed
@pytest.mark.slow
def test_the_engine_is_method_and_baseline_of_a_run(kept, tmp_path):
    sides = [f"+method@baselines.{name}={name}" for name in ("ort_generate", "ort_prompt_lookup")]
    places = [f"{side}.directory={kept}" for side in ("method", "baselines.ort_generate", "baselines.ort_prompt_lookup")]
    run(composed("method=ort", "method.gamma=4", "max_new_tokens=24", "ignore_eos=true", *sides, *places), tmp_path)
    summary, environment = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("summary", "environment"))
    assert summary["equal_texts"] == 1.0 and summary["lossless"] and summary["equal_texts_vs_ort_generate"] == 1.0
    assert environment["peers"]["method"]["gamma"] == 4 and environment["versions"]["onnxruntime-genai"]
    for record in read_records(tmp_path):
        side, alone = record.method, record.sides["baseline_ort_generate"]
        assert side.repeats[0].first_tokens == 1 + side.rounds[0][1] and side.mean("draft_seconds") > 0 and side.mean("target_seconds") > 0
        assert alone.target_forwards == 24 and alone.rounds == [[0, 0]] * 23 and alone.kv_bytes_target > 0
        assert side.token_ids == record.sides["baseline_ort_prompt_lookup"].token_ids
