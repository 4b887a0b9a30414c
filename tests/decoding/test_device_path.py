"""What a model on an accelerator goes through, on the CPU: contexts with a mirror, tokens gathered by the device, torch's own search. Round for
round it is what the host's shorter way does."""

from itertools import islice

import pytest
from cascades import EXACT, csd
from tiny_models import build

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.copying import PromptLookupDrafter
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.grown_trees import BestFirst, GrownTreeDrafter
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.runners.runner import ModelRunner
from specexp.runners.sink import SinkRunner

PROMPT, TOKENS = [5, 6, 7, 8, 5, 6], 90
DRAFTERS = {
    "nothing": lambda draft: NoDraft(),
    "chain": lambda draft: ModelDrafter(draft, FixedLength(4)),
    "lookup": lambda draft: PromptLookupDrafter(FixedLength(4)),
    "tree": lambda draft: DrawnTreeDrafter(draft, FixedShape([2, 2])),
    "grown": lambda draft: GrownTreeDrafter(draft, BestFirst(3, 4), 6),
    "cascade": lambda draft: csd({"draft": draft}, [[3, 2], [0, 2]], EXACT()),
}


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Switches from the host's way to the device's, for what is made afterwards."""

    def switch():
        contexts, runners = Context.__init__, ModelRunner.__init__

        def mirrored(self, *args, **kwargs):
            contexts(self, *args, **kwargs)
            self._allocate(max(len(self.ids), 1))  # outgrown at once
            self._mirror(0)

        def gathering(self, *args, **kwargs):
            runners(self, *args, **kwargs)
            self._on_host = False

        monkeypatch.setattr(Context, "__init__", mirrored)
        monkeypatch.setattr(ModelRunner, "__init__", gathering)
        for module in ("runners.runner", "decoding.verifiers", "decoding.sampling"):
            monkeypatch.setattr(f"specexp.{module}.is_numpys", lambda logits: False)

    return switch


def rounds(drafter, sampling, runner):
    target, draft = runner(build("llama", 0)), runner(build("llama", 1))
    decoder = Decoder(target, DRAFTERS[drafter](draft), RejectionVerifier())
    steps = decoder.generate(PROMPT, TOKENS, lambda ids, since: None, Draws(sampling, (3,)))
    told = [(step.tokens, step.nodes, step.parents, step.path, step.stages) for step in islice(steps, TOKENS)]
    return told, (target.forwards, draft.forwards, target.kv_bytes, draft.kv_bytes)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "multinomial"])
@pytest.mark.parametrize("cache", ["full", "sink"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_rounds_are_the_same_on_either_way(drafter, cache, sampling, as_on_a_device):
    runner = ModelRunner if cache == "full" else lambda model: SinkRunner(model, max_length=68)
    on_host = rounds(drafter, sampling, runner)
    as_on_a_device()
    assert rounds(drafter, sampling, runner) == on_host and sum(len(step[0]) for step in on_host[0]) == TOKENS


def test_a_mirrored_fork_copies_its_trunk_and_grows_on_its_own(as_on_a_device):
    as_on_a_device()
    trunk = Context([1, 2, 3])
    branch = trunk.fork()
    branch.append(range(4, 100))
    trunk.append([9])
    assert branch.tokens.tolist() == branch.ids == list(range(1, 100))
    assert trunk.tokens.tolist() == trunk.ids == [1, 2, 3, 9] and trunk.span(1, 3).tolist() == [2, 3]
