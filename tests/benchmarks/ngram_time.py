"""Prints the drafting time per round of every drafter without a model, by length of context: `python tests/benchmarks/ngram_time.py`.

Nothing is asserted: the figures of a row should be the same up to noise. A round is propose, observe and four more ids of context.
The text is a mixture of random ids, blocks that come back and loops. --forks: a round proposes on three forks of six more ids as well.
"""

import argparse
import random
from statistics import median
from time import perf_counter
from types import SimpleNamespace

import torch

from specexp.decoding.context import Context
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.protocols import Verdict
from specexp.decoding.sampling import Draws, Sampling
from specexp.drafters.copying import MaxGramDrafter, PromptLookupDrafter
from specexp.drafters.katz import KatzDrafter, load_katz
from specexp.drafters.model import NoDraft
from specexp.drafters.nasd import BasicStorage, NasdDrafter, OneLevelStorage
from specexp.drafters.ngrams import BigramDrafter, load_bigrams
from specexp.drafters.suffixes import EarliestMatch, LatestMatch

LENGTHS = (100, 1000, 4000, 8000)
VOCAB, GAMMA = 2048, FixedLength(8)


def drafters():
    vocabulary = SimpleNamespace(entries=VOCAB, rows=VOCAB)
    pairs, triples = (f"asset:tables/tiny_{kind}.safetensors" for kind in ("bigram", "trigram"))
    return {
        "prompt lookup": PromptLookupDrafter(GAMMA),
        "max-gram, latest": MaxGramDrafter(GAMMA, LatestMatch(), NoDraft()),
        "max-gram, earliest": MaxGramDrafter(GAMMA, EarliestMatch(), NoDraft()),
        "nasd, basic, order 4": NasdDrafter(BasicStorage(4), GAMMA),
        "nasd, onelevel, order 4": NasdDrafter(OneLevelStorage(4), GAMMA),
        "nasd, top_k_filler 3": NasdDrafter(BasicStorage(4), GAMMA, top_k_filler=3),
        "bigram": BigramDrafter(load_bigrams(pairs), GAMMA, vocabulary),
        "katz, greedy": KatzDrafter(load_katz(triples), GAMMA, vocabulary),
        "katz, sampling": KatzDrafter(load_katz(triples), GAMMA, vocabulary),
    }


def text(length, rng):
    """`length` ids, about half of them repeated from before, with loops of a few ids in between."""
    ids = [rng.randrange(VOCAB) for _ in range(20)]
    while len(ids) < length:
        kind, size = rng.random(), rng.randint(4, 40)
        start = rng.randrange(len(ids))
        ids += (
            ids[start : start + size]
            if kind < 0.5
            else ids[-rng.randint(1, 3) :] * 8
            if kind < 0.6
            else [rng.randrange(VOCAB) for _ in range(size)]
        )
    return ids[:length]


def seconds(drafter, length, rounds, forks, sampling):
    """Median time of a round behind a context of `length` ids."""
    rng, draws, times = random.Random(0), Draws(sampling), []
    ids, logits = text(length + 4 * (rounds + 1), rng), torch.randn(GAMMA.gamma + 1, VOCAB)
    context = Context(ids[:length])
    drafter.start(ids[:length], length)
    drafter.propose(context, 0, draws)  # the prompt is read once, in the prefill's round
    for _ in range(rounds):
        started = perf_counter()
        draft = drafter.propose(context, GAMMA.gamma, draws)
        coming = ids[len(context) : len(context) + 4]
        kept = next((i for i, token in enumerate(draft.ids[:3]) if token != coming[i]), min(len(draft), 3))
        drafter.observe(draft, Verdict(draft.path(kept - 1), coming[kept]), logits)
        for _ in range(3 if forks else 0):
            fork = context.fork()
            fork.append(ids[:6])
            drafter.propose(fork, GAMMA.gamma, draws)
        times.append(perf_counter() - started)
        context.append(coming)
    return median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument(
        "--forks",
        action="store_true",
        help="propose on forks as well, as inside a cascade (copying a fork's context is linear in the text)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'microseconds a round at a context of':<38}" + "".join(f"{length:>8}" for length in LENGTHS))
    for name, drafter in drafters().items():
        sampling = Sampling(1.0 if name.endswith("sampling") else 0.0)
        print(f"{name:<38}" + "".join(f"{1e6 * seconds(drafter, length, options.rounds, options.forks, sampling):8.0f}" for length in LENGTHS))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
