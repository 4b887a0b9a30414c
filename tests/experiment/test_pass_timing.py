"""The cost curve of a run: which passes are timed, that they are of the width they say, and that nothing of them stays behind."""

import json

import pytest
import torch
from running import composed, run
from tiny_models import CONFIGS, build, build_encoder_decoder

from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import GREEDY
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.errors import UserError
from specexp.experiment import pass_timing
from specexp.experiment.generation import generate
from specexp.experiment.pass_timing import DRAFTED, WIDTHS, Place, measured_curve, memory_bandwidth, weight_bytes
from specexp.runners.runner import ModelRunner, StatelessRunner
from specexp.runners.sink import SinkRunner
from specexp.runners.static import StaticRunner
from specexp.tracking.records import read_records

PROMPT = [5, 17, 33, 17, 60, 5, 17]


def never(ids, since):
    return None


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    monkeypatch.setattr(pass_timing, "SECONDS", 0.0)


def sides(kind=ModelRunner, model=None, draft=None, **settings):
    model, draft = model or build("llama"), draft or build("llama", 1)
    method = Decoder(kind(model, **settings), ModelDrafter(kind(draft, **settings), FixedLength(3)), RejectionVerifier())
    return {"method": method, "baseline": Decoder(kind(model, **settings), NoDraft(), RejectionVerifier())}


class Watched(ModelRunner):
    """Notes how many tokens each pass feeds."""

    def _forward(self, tokens, *rest, **named):
        self.fed = [*getattr(self, "fed", []), tokens.shape[0]]
        return super()._forward(tokens, *rest, **named)


def test_passes_feed_as_many_tokens_as_their_width_says():
    decoders = sides(Watched)
    curve = measured_curve(decoders, [PROMPT], 40, GREEDY)
    assert curve.widths == list(WIDTHS) and curve.repeats == 3 and curve.context_tokens == len(PROMPT) + 16
    assert set(curve.draft_seconds) == {"draft"} and min(*curve.target_seconds, *curve.draft_seconds.values()) > 0
    assert decoders["method"].target.fed == [curve.context_tokens] + 4 * list(WIDTHS)
    assert decoders["method"].drafter.runner.fed == [curve.context_tokens] + [1] * (4 * DRAFTED - 1)
    assert not hasattr(decoders["baseline"].target, "fed") and curve.bandwidth is None
    assert curve.kv_bytes == curve.context_tokens * decoders["method"].target.cache.bytes_per_slot


@pytest.mark.parametrize("kind", [ModelRunner, StatelessRunner, SinkRunner])
def test_what_follows_is_as_if_nothing_had_been_measured(kind):
    settings = {"max_length": 68} if kind is SinkRunner else {}
    long = PROMPT * 9  # past the sink cache's first eviction
    counts = ("token_ids", "rounds", "target_forwards", "draft_forwards", "kv_bytes_target", "kv_bytes_draft", "tokens_evicted")
    untouched, measured = sides(kind, **settings), sides(kind, **settings)
    assert measured_curve(measured, [long], 40, GREEDY) is not None
    texts = [generate(decoders["method"], long, 40, never, GREEDY, ("same",)).record() for decoders in (untouched, measured)]
    assert [[getattr(text, key) for key in counts] for text in texts[:1]] == [[getattr(text, key) for key in counts] for text in texts[1:]]


def test_no_pass_reaches_beyond_the_text_or_the_next_eviction():
    assert measured_curve(sides(), [PROMPT], 8, GREEDY).widths == [1, 2, 3, 5]  # 4 of 8 tokens are in the context
    alone = measured_curve(sides(), [PROMPT], 1, GREEDY)
    assert alone.widths == [1] and alone.draft_seconds == {"draft": None}
    runner = SinkRunner(build("llama"), max_length=68)
    place = Place(runner, PROMPT * 9, 40)
    assert place.room == runner.room(place.context) < 24 and max(place.passes()) == max(w for w in WIDTHS if w <= place.room + 1)


def test_an_encoder_decoder_pair_reads_its_source_once():
    model, draft = build_encoder_decoder("relu_tied"), build_encoder_decoder("relu_tied", seed=1)
    decoders, reads = sides(model=model, draft=draft), []
    hook = model.get_encoder().register_forward_hook(lambda *_: reads.append(1))
    curve = measured_curve(decoders, [PROMPT], 40, GREEDY)
    hook.remove()
    assert curve.widths == list(WIDTHS) and len(reads) == 1 and curve.context_tokens == 17


def test_other_loops_have_no_curve():
    class Peer:
        target = ModelRunner(build("llama"))

    assert measured_curve({"method": Peer()}, [PROMPT], 40, GREEDY) is None


class Lazy(ModelRunner):
    """Has prepared the widths in `done`."""

    done = ()

    def ready(self, width):
        return width in self.done


def test_nothing_is_prepared_for_the_curves_sake():
    decoders = sides(Lazy)
    assert measured_curve(decoders, [PROMPT], 40, GREEDY) is None
    decoders["method"].target.done, decoders["baseline"].target.done = (3, 5), (1,)
    curve = measured_curve(decoders, [PROMPT], 40, GREEDY)
    assert curve.widths == [1, 3, 5] and curve.draft_seconds == {"draft": None} and curve.drafted_token is None


def test_fixed_shapes_are_measured_at_the_widths_that_they_have():
    """Others would be those of a wider program, and a draft's program may make more passes than a curve asks for."""
    decoders = sides(StaticRunner, block=64)
    for decoder in decoders.values():
        generate(decoder, PROMPT, 40, never, GREEDY, ("warm",))
    runners = [*(decoder.target for decoder in decoders.values()), decoders["method"].drafter.runner]
    made = [runner.capture.made for runner in runners]
    curve = measured_curve(decoders, [PROMPT], 40, GREEDY)
    assert curve.widths == [1, 4] and curve.draft_seconds["draft"] > 0
    assert made == [runner.capture.made for runner in runners]


def test_weights_that_a_pass_does_not_read_do_not_count():
    model = build("llama")
    everything = sum(p.nbytes for p in model.parameters())
    assert weight_bytes(model) == everything - model.model.embed_tokens.weight.nbytes
    assert weight_bytes(build("gpt2")) == sum(p.nbytes for p in build("gpt2").parameters())  # tied: read by the projection
    seq2seq = build_encoder_decoder("gated_untied")
    decoder = [p for name, p in seq2seq.named_parameters() if name.startswith(("decoder.", "lm_head"))]
    assert weight_bytes(seq2seq) == sum(p.nbytes for p in decoder)


def test_bandwidth_is_bytes_per_second():
    assert 1e6 < memory_bandwidth(torch.device("cpu"), 2**20) < 1e13


@pytest.mark.slow
@pytest.mark.parametrize("kind", [name for name in CONFIGS if name != "llama"])
def test_every_architecture_has_a_curve(kind):
    curve = measured_curve(sides(model=build(kind), draft=build(kind, 1)), [PROMPT], 40, GREEDY)
    assert curve.widths == list(WIDTHS) and curve.draft_seconds["draft"] > 0


def test_a_run_keeps_its_curve_and_tells_its_bounds(tmp_path):
    run(composed("cost_curve=true", "profile=torch", "profile.rounds=1", "max_new_tokens=12"), tmp_path)
    curve = json.loads((tmp_path / "environment.json").read_text())["cost_curve"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert curve["widths"] == [1, 2, 3, 5] and set(curve["draft_seconds"]) == {"draft"}
    assert summary["best_gamma"] >= 0 and summary["oracle_speedup"] > 0 and summary["mbu"] is None
    names = {event.get("name") for event in json.loads((tmp_path / "profile_trace.json").read_text())["traceEvents"]}
    assert {"draft", "target", "verify"} <= names and "Self CPU" in (tmp_path / "profile_operators.txt").read_text()


def test_a_profile_that_shows_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="profile.rounds=0 shows nothing"):
        run(composed("profile=torch", "profile.rounds=0"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen", [("method=hf_assisted",), ("method=csd",), ("method=tree",), ("method=medusa",), ("method=beam",), ("method=planted",), ("cache=none",), ("warmup=0",), ("model_pair=tiny_t5", "dataset=microsum")]
)
def test_every_kind_of_run_is_explained_and_profiled(chosen, tmp_path, capsys):
    from specexp.report.explain import main

    run(composed("cost_curve=true", "profile=torch", *chosen), tmp_path)
    assert (tmp_path / "profile_trace.json").stat().st_size > 1000
    curve = json.loads((tmp_path / "environment.json").read_text())["cost_curve"]
    assert (curve is None) is (chosen[0] in ("method=hf_assisted", "method=beam", "warmup=0"))
    capsys.readouterr()
    main([str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    sides = [record.method for record in read_records(tmp_path)]
    assert told["rounds"] == sum(len(side.timed_rounds) for side in sides)  # the first emission is not timed as a round


@pytest.mark.slow
def test_a_compiled_run_measures_what_it_has_compiled(tmp_path):
    run(composed("cost_curve=true", "cache=compiled", "max_new_tokens=40"), tmp_path)
    curve = json.loads((tmp_path / "environment.json").read_text())["cost_curve"]
    assert curve["widths"] == list(WIDTHS) and curve["draft_seconds"]["draft"] > 0
