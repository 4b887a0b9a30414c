"""How far the texts of a method are from the exact distribution of its target."""

from tabular import completed, law_of, total_variation

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.sampling import Sampling

PROMPT = [0, 1, 2, 0, 1]

SAMPLINGS = {
    "greedy": Sampling(0.0),
    "multinomial": Sampling(1.0),
    "warm": Sampling(0.7),
    "topk": Sampling(1.0, top_k=2),
    "nucleus": Sampling(1.3, top_p=0.8),
    "topknucleus": Sampling(1.0, top_k=2, top_p=0.7),
}


def deviation(verifier, drafter, sampling, target, draft, length=4):
    """Of one round. verifier: makes one; drafter: makes one that asks `draft`."""
    decoder = Decoder(target, drafter(draft), verifier(), first_target=False)

    def one_round(draws):
        decoder.drafter.start(PROMPT, 0)
        return decoder.round(Context(PROMPT), length, draws).tokens

    emitted = completed(law_of(one_round, sampling), target, sampling, PROMPT, length)
    return total_variation(emitted, completed({(): 1.0}, target, sampling, PROMPT, length))
