"""Prints what a token costs by the length of the text before it: `python tests/benchmarks/context_time.py [--lengths 500 1000 2000 4000 8000]`.

The pair of peers_time.py. Attention is timed by itself too, over keys and values of the same shape lying in the same kind of buffer: the rest
of a round should not grow with the text at all. Nothing is asserted: run it on an idle machine. Medians, milliseconds per round.
"""

import argparse
from statistics import median
from time import perf_counter

import torch
from peers_time import ours, pair

from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import Draws
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.runners.caches import FullCache
from specexp.runners.calls import ChainMasks
from specexp.runners.llama import attended
from specexp.runners.runner import ModelRunner

ROUNDS = 24


class Attention:
    """All layers' attention of a model, `rows` rows behind `length` slots, by itself."""

    def __init__(self, model, length, rows):
        heads, size = model.config.num_attention_heads, model.config.hidden_size // model.config.num_attention_heads
        self.layers, self.cache = range(model.config.num_hidden_layers), FullCache()
        self.cache.reserve(length + rows)
        for layer in self.layers:
            self.cache.update(torch.randn(1, heads, length, size), torch.randn(1, heads, length, size), layer)
        self.cache.length = length
        self.new, self.mask = torch.randn(1, heads, rows, size), None if rows == 1 else ChainMasks(torch.float32, model.device)(length, rows)

    def __call__(self):
        for layer in self.layers:
            attended(self.new, *self.cache.update(self.new, self.new, layer), self.mask)


def timed(decoder, prompt, *besides):
    """Median milliseconds of a round behind the prompt, and of each of `besides`, which are called in turn between the rounds: the machine's
    speed drifts."""
    width = max(1, getattr(getattr(decoder.drafter, "policy", None), "gamma", 0) + 1)
    stream = decoder.generate(prompt, 1 + ROUNDS * width, lambda ids, since: None, Draws())
    next(stream)  # the prefill
    spent = [[] for _ in range(1 + len(besides))]
    finished = False
    while not finished:
        for times, call in zip(spent, (lambda: next(stream, None), *besides), strict=True):
            began = perf_counter()
            finished |= call() is None and times is spent[0]
            times.append(1000 * (perf_counter() - began))
    return [median(times[3:-2]) for times in spent]  # the first reads the prompt with the draft model, the last ones may be shorter


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--gamma", type=int, default=5)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target, draft = pair(options.layers, options.width, positions=2 * max(options.lengths))
    alone = ours(ModelRunner(target), NoDraft())
    speculative = ours(ModelRunner(target), ModelDrafter(ModelRunner(draft), FixedLength(options.gamma)))
    for decoder in (alone, speculative):
        timed(decoder, [1] * 64)
    print(f"{options.threads} threads, torch {torch.__version__}, {options.layers} layers of width {options.width}, gamma={options.gamma}; milliseconds")
    print("| context | AR token | its attention | the rest | speculative round | target's attention | draft's | the rest |\n|---|---|---|---|---|---|---|---|")
    for length in options.lengths:
        prompt = torch.randint(2048, (length,)).tolist()
        token, own = timed(alone, prompt, Attention(target, length, 1))
        round_, wide, single = timed(speculative, prompt, Attention(target, length, options.gamma + 1), Attention(draft, length, 1))
        drafts = options.gamma * single
        cells = [token, own, token - own, round_, wide, drafts, round_ - wide - drafts]
        print(f"| {length} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
