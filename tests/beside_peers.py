"""A peer and our own decoder over the same weights, to compare their texts."""

import copy

import torch

from specexp.decoding.decoder import Decoder
from specexp.decoding.protocols import Cut
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import NoDraft
from specexp.runners.runner import StatelessRunner

GREEDY, SOFT = Sampling(0.0), Sampling(1.0)

PROMPT = [5, 17, 33, 17, 60, 5, 17]

def never(ids, since):
    return None


def at_end(ends):
    """A stop that ends a text at these ids."""

    def stop(ids, since):
        return next((Cut(i + 1, "eos") for i in range(since, len(ids)) if ids[i] in ends), None)

    return stop


def near(model, scale=0.05):
    other = copy.deepcopy(model)
    torch.manual_seed(3)
    for parameter in other.parameters():
        parameter.mul_(1.0 + scale * torch.randn_like(parameter))
    return other


def steps_of(decoder, tokens=40, stop=never, seed=0, prompt=PROMPT, sampling=GREEDY):
    return list(decoder.generate(prompt, tokens, stop, Draws(sampling, (seed,))))


def text(steps):
    return [token for step in steps for token in step.tokens]


def ours(model, sampling=GREEDY, tokens=40, stop=never, seed=0, runner=StatelessRunner, prompt=PROMPT):
    return text(steps_of(Decoder(runner(model), NoDraft(), RejectionVerifier()), tokens, stop, seed, prompt, sampling))


def state(model):
    return {key: value for key, value in model.__dict__.items()}, model.generation_config.to_dict(), model.config.to_dict()
