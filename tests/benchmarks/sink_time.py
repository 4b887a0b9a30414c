"""Prints what a streaming cache costs and saves: `python tests/benchmarks/sink_time.py [--tokens 8000] [--short 2000] [--repeats 5]`.

Nothing is asserted: run it on an idle machine. First a long text under cache=sink: KV bytes along the way, and the time per token of the
second and of the last thousand, taken in turns. Then a shorter one under cache=full and cache=sink, interleaved: throughput and memory of both. The
texts of the two caches differ, and with them what is accepted, so throughput per pass is told beside throughput per token.
"""

import argparse
from statistics import median
from time import perf_counter

import torch
from configured import composed, decoder_of
from hydra.utils import instantiate

from specexp.decoding.sampling import Draws
from specexp.text.stopping import Stopping


def decoder(method, *overrides):
    """That method on the shipped pair, and its tokenizer."""
    config = composed(f"method={method}", *overrides)
    return decoder_of(config), instantiate(config.model_pair).load_tokenizer()


def prompt(tokenizer, index=0):
    return tokenizer(instantiate(composed().dataset).examples()[index].prompt)["input_ids"]


def decoded(decoder, ids, tokens, stop):
    """For each emitted token (seconds since the prefill), the KV bytes of target and drafts at each emission, and the number of rounds."""
    times, sizes, rounds, started = [], [], 0, None
    for step in decoder.generate(ids, tokens, stop, Draws()):
        now = perf_counter()
        started = now if started is None else started
        times += [now - started] * len(step.tokens)
        sizes.append(kv_bytes(decoder))
        rounds += 1
    return times, sizes, rounds


def kv_bytes(decoder):
    return decoder.target.usage().kv_bytes + sum(runner.usage().kv_bytes for runner in decoder.drafter.models.values())


class Text:
    """One generation that goes on when it is asked to; times and counts only what came in timed calls."""

    def __init__(self, decoder, ids, tokens, stop):
        self.stream, self.decoder = decoder.generate(ids, tokens, stop, Draws()), decoder
        self.seconds, self.tokens, self.rounds, self.sizes, self.length = 0.0, 0, 0, [], 0

    def advance(self, length):
        while self.length < length and (step := next(self.stream, None)):
            self.length += len(step.tokens)
            self.sizes.append(kv_bytes(self.decoder))

    def timed_round(self):
        started = perf_counter()
        step = next(self.stream)
        self.seconds += perf_counter() - started
        self.tokens, self.rounds = self.tokens + len(step.tokens), self.rounds + 1


def long_text(method, options):
    """The second and the last thousand tokens, round by round in turns, so that the machine's moods meet both."""
    overrides = ("cache=sink", f"cache.max_length={options.max_length}", f"cache.block={options.block}")
    (first, tokenizer), (other, _) = (decoder(method, *overrides) for _ in range(2))
    stop, ids, part = Stopping(tokenizer, (), ()), prompt(tokenizer), options.tokens // 8
    early, late = Text(first, ids, 2 * part, stop), Text(other, ids, options.tokens, stop)
    late.advance(options.tokens - part)
    early.advance(part)
    while max(early.tokens, late.tokens) < part - 20:
        early.timed_round()
        late.timed_round()
    sizes = late.sizes
    print(f"{method}, cache=sink max_length={options.max_length}, {options.tokens} tokens (ignore_eos):")
    print("  KV MiB along the way: " + " ".join(f"{sizes[round(k * (len(sizes) - 1) / 8)] / 2**20:.2f}" for k in range(9)))
    for name, of in (("token", "tokens"), ("round", "rounds")):
        second, last = (1000 * text.seconds / getattr(text, of) for text in (early, late))
        print(f"  ms per {name}: second {part} {second:.3f}, last {part} {last:.3f}, ratio {last / second:.3f}")
    print(f"  evicted by the target: {other.target.usage().evicted} tokens")


def against_full(method, options):
    sink, tokenizer = decoder(method, "cache=sink", f"cache.max_length={options.max_length}", f"cache.block={options.block}")
    sides = {"full": decoder(method, "cache=full")[0], "sink": sink}
    stop, ids = Stopping(tokenizer, (), ()), prompt(tokenizer)
    spent, memory, rounds = {"full": [], "sink": []}, {}, {}
    for repeat in range(options.repeats + 1):
        for name in sides if repeat % 2 else reversed(sides):
            times, sizes, rounds[name] = decoded(sides[name], ids, options.short, stop)
            memory[name] = sizes[-1]
            spent[name] += [times[-1]] if repeat else []  # the first is warm-up
    per_second = {name: (options.short - 1) / median(seconds) for name, seconds in spent.items()}
    per_round = {name: 1000 * median(seconds) / (rounds[name] - 1) for name, seconds in spent.items()}
    print(f"{method}, {options.short} tokens, median of {options.repeats} interleaved:")
    print(f"  tokens/s: full {per_second['full']:.1f}, sink {per_second['sink']:.1f}, sink loses {100 * (1 - per_second['sink'] / per_second['full']):.1f} %")
    print(f"  ms per round: full {per_round['full']:.3f}, sink {per_round['sink']:.3f}; rounds: full {rounds['full']}, sink {rounds['sink']}")
    saved = 100 * (1 - memory["sink"] / memory["full"])
    print(f"  KV MiB: full {memory['full'] / 2**20:.2f}, sink {memory['sink'] / 2**20:.2f}, saved {saved:.1f} %")


@torch.inference_mode()  # as a run does
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--short", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--methods", nargs="+", default=["autoregressive", "speculative"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for method in options.methods:
        long_text(method, options)
        against_full(method, options)


if __name__ == "__main__":
    main()
