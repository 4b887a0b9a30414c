"""One text from a decoder, for tests of losslessness."""

from specexp.decoding.decoder import Decoder
from specexp.decoding.sampling import Draws, Sampling
from specexp.decoding.verifiers import RejectionVerifier

GREEDY = Sampling(0.0)

PROMPT = [5, 17, 33, 17, 60, 5, 17]

def never(ids, since):
    return None


def decode(target, drafter, tokens=48, prompt=PROMPT, stop=never, sampling=GREEDY, seed=0, **options):
    decoder = Decoder(target, drafter, RejectionVerifier(), **options)
    return list(decoder.generate(prompt, tokens, stop, Draws(sampling, (seed,))))


def text(steps):
    return [token for step in steps for token in step.tokens]
