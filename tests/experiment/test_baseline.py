"""A baseline slower than transformers' own `generate` is a defect: this warns of it (a busy machine is no reason to fail)."""

import warnings
from time import perf_counter

import pytest
import torch

from specexp.decoding.decoder import Decoder
from specexp.decoding.sampling import GREEDY
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import NoDraft
from specexp.experiment.generation import generate
from specexp.models.loading import ModelSpec, load_model
from specexp.runners.runner import ModelRunner

PROMPT, TOKENS, ROUNDS = list(range(5, 45)), 48, 3


@pytest.mark.parametrize("pair", ["tiny", "tiny_t5"])
def test_autoregressive_baseline_gives_generates_tokens_and_is_not_slower(pair):
    model = load_model(ModelSpec(f"asset:{pair}/target", dtype="float32", device="cpu"))
    decoder = Decoder(ModelRunner(model), NoDraft(), RejectionVerifier())
    inputs = torch.tensor([PROMPT])
    ours, theirs = [], []
    for _ in range(ROUNDS):
        started = perf_counter()
        tokens = generate(decoder, PROMPT, TOKENS, lambda ids, since: None, GREEDY, (0,)).token_ids
        ours.append(perf_counter() - started)
        started = perf_counter()
        expected = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        theirs.append(perf_counter() - started)
        assert tokens == expected[0, -TOKENS:].tolist()
    print(f"{TOKENS} tokens: ours {min(ours):.3f} s, generate {min(theirs):.3f} s")
    if min(ours) > min(theirs):
        warnings.warn(f"the baseline took {min(ours):.3f} s, transformers' generate {min(theirs):.3f} s", stacklevel=1)
