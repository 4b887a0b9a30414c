"""Prints the host time per round outside model forwards: `python tests/benchmarks/host_time.py [--gamma 4] [--prompts 64]`.

Nothing is asserted: run it on an idle machine. On CPU a forward returns when it is done, so what remains of a round is ours:
sampling, verification, masks, the memo, the stop check and the loop.
"""

import argparse
from statistics import median
from time import perf_counter

import torch
from configured import composed, decoder_of
from hydra.utils import instantiate

from specexp.decoding.sampling import Draws
from specexp.models.pair import stop_ids
from specexp.text.stopping import Stopping


class Forwards:
    """Seconds spent inside the passes of some runners' models: tokens in, logits out."""

    def __init__(self, *runners):
        self.readings = []  # of the clock, before and after each
        for runner in runners:
            runner._pass.cached = self._timed(runner._pass.cached)

    def _timed(self, forward):
        def timed(tokens, positions, mask, cache, rows, read=self.readings.append):  # as little as can be: what it takes counts as ours
            read(perf_counter())
            output = forward(tokens, positions, mask, cache, rows)
            read(perf_counter())
            return output

        return timed

    def seconds(self):
        """Of the forwards since the last call."""
        spent = sum(self.readings[1::2]) - sum(self.readings[::2])
        self.readings.clear()
        return spent


def rounds(decoder, prompt, tokens, stop, forwards):
    """(seconds of the round, seconds of it inside forwards) for each speculation round."""
    stream = decoder.generate(prompt, tokens, stop, Draws())
    next(stream)  # the prefill
    while True:
        forwards.seconds()
        started = perf_counter()
        if (step := next(stream, None)) is None:
            return
        ended = perf_counter()
        if step.drafted:
            yield ended - started, forwards.seconds()


@torch.inference_mode()  # as a run does: once, not in every round
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gamma", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--cache", default="full")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = composed(f"method.gamma={options.gamma}", f"cache={options.cache}")
    pair, dataset, decoder = instantiate(config.model_pair), instantiate(config.dataset), decoder_of(config)
    tokenizer = pair.load_tokenizer()
    stop = Stopping(tokenizer, stop_ids(decoder.target.model, tokenizer), dataset.stop_strings)
    forwards = Forwards(decoder.target, decoder.drafter.runner)
    measured = []
    for index, example in enumerate(dataset.examples()[: options.prompts]):
        timed = list(rounds(decoder, tokenizer(example.prompt)["input_ids"], config.max_new_tokens, stop, forwards))
        measured += timed if index >= options.prompts // 4 else []  # the others warm up: the machine, and what is remembered of tokens
    host = [1000 * (total - inside) for total, inside in measured]
    print(f"{len(host)} rounds at gamma={options.gamma}, {options.threads} threads, torch {torch.__version__}")
    print(f"host time outside forwards: median {median(host):.3f} ms, mean {sum(host) / len(host):.3f} ms per round")
    print(f"whole round: median {1000 * median(total for total, _ in measured):.3f} ms")


if __name__ == "__main__":
    main()
