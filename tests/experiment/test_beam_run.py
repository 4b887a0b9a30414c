"""`method=beam` as a user runs it: both rules, any sampling, and what is refused."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from running import run

from specexp.cli import messages
from specexp.errors import UserError
from specexp.tracking.records import read_records


def composed(*overrides):
    GlobalHydra.instance().clear()
    brief = ["tracker=none", "threads=1", "warmup=0", "dataset.limit=4", "max_new_tokens=16", "method=beam"]
    with initialize_config_dir(messages.conf_directory(), version_base="1.3"):
        return compose("config", overrides=[*brief, *overrides])


@pytest.mark.parametrize("overrides", [["method.num_beams=2"], ["length_penalty@method=power", "sampling=nucleus"]])
def test_a_run(overrides, tmp_path):
    """Under any sampling rule: it draws nothing. The draft of the pair is neither asked for nor loaded."""
    speedup = run(composed(*overrides, "model_pair.draft.name=nowhere"), tmp_path)
    records = read_records(tmp_path)
    assert len(records) == 4 and speedup > 0
    for record in records:
        side = record.method
        assert side.lossless is False and side.mean("ttft_seconds") > 0 == side.mean("decode_seconds")
        assert side.nll_sum > 0 and side.finish in ("eos", "stop", "length") and side.draft_forwards == 0
        assert side.kv_bytes_target > record.baseline.kv_bytes_target


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method.num_beams=0"], "num_beams=0 keeps no text"),
        (["method.top_k=0"], "top_k=0 proposes nothing"),
        (["method.min_length=-1"], "min_length=-1 is negative"),
        (["length_penalty@method=power", "method.early_stopping=perhaps"], "early_stopping=perhaps .* true, false or never"),
        (["length_penalty@method=power", "method.early_stopping=3"], "early_stopping=3 .* true or false"),
        (["method.alpha=much"], "method.alpha=much"),
        (["samples=2", "sampling=nucleus"], "samples=2 .* method=beam draws nothing; set samples=1"),
        (["cache=static"], "cache=static holds one text, and beam search needs one per beam; choose cache=full"),
        (["cache=sink"], "cache=sink holds one text, and beam search needs one per beam; choose cache=full"),
    ],
)
def test_bad_values_are_refused_before_any_weights(overrides, told, tmp_path, monkeypatch):
    monkeypatch.setattr("specexp.models.loading.load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=told):
        run(composed(*overrides), tmp_path)
