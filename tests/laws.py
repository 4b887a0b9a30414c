"""How far a method is from the exact law of its target."""

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

def deviation(verifier_class, drafter, sampling, target, draft, length=4):
    decoder = Decoder(target, drafter(draft, sampling), verifier_class(sampling), first_target=False)

    def one_round(chance):
        decoder.drafter.start(PROMPT, 0)
        return decoder.round(Context(PROMPT), length, chance).tokens

    emitted = completed(law_of(one_round), target, sampling, PROMPT, length)
    return total_variation(emitted, completed({(): 1.0}, target, sampling, PROMPT, length))
