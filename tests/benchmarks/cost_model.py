"""Prints the cost-model policy beside the best fixed length, with a good and a useless draft: `python tests/benchmarks/cost_model.py`.

The fixed length is found by a sweep on every other prompt; both are then timed on the rest, interleaved with autoregressive decoding.
Wanted: cost_model within 5 % of the best fixed length, and at least 0.95x autoregressive decoding where the draft is useless. Nothing is
asserted: run it on an idle machine. `--gammas`, `--prompts` and `--threads` make it shorter or longer.
"""

import argparse
from collections import Counter

import configured
import numpy as np
import torch
from configured import composed
from hydra.utils import instantiate

from specexp.decoding.sampling import GREEDY
from specexp.experiment.generation import generate
from specexp.figures.speed import rate_ratio_interval
from specexp.models.pair import stop_ids
from specexp.runners.runner import ModelRunner
from specexp.text.stopping import Stopping


def useless(runner):
    """A draft of the same shape and cost whose weights were never trained."""
    torch.manual_seed(0)
    model = type(runner.model)(runner.model.config).eval().requires_grad_(False)
    return ModelRunner(model.to(runner.device, runner.model.dtype), runner.vocab_size)


def decoder_of(draft, *overrides):
    decoder = configured.decoder_of(composed(*overrides))
    if draft == "useless":
        decoder.drafter.runner = useless(decoder.drafter.runner)
    return decoder


class Clock:
    """Decoded tokens and seconds of each contestant by prompt; they take turns in going first."""

    def __init__(self, decoders, tokens, stop):
        self.decoders, self.tokens, self.stop = decoders, tokens, stop
        self.rows = {name: [] for name in decoders}
        self.lengths = {name: Counter() for name in decoders}

    def run(self, prompts, warmup=2):
        for index, prompt in enumerate([*prompts[:warmup], *prompts]):
            names = list(self.decoders)
            for name in names[index % len(names) :] + names[: index % len(names)]:
                done = generate(self.decoders[name], prompt, self.tokens, self.stop, GREEDY, ("benchmark", index))
                if index >= warmup:
                    self.rows[name].append((len(done.token_ids) - len(done.rounds[0].tokens), done.decode_seconds))
                    self.lengths[name].update(step.drafted for step in done.rounds[1:])
        return self

    def rate(self, name):
        tokens, seconds = (sum(column) for column in zip(*self.rows[name], strict=True))
        return tokens / seconds

    def ratio(self, name, other):
        interval = rate_ratio_interval(np.hstack([np.array(self.rows[name], float), np.array(self.rows[other], float)]))
        return f"{self.rate(name) / self.rate(other):.3f} ({'no interval' if interval is None else '{:.3f} to {:.3f}'.format(*interval)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gammas", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8, 10, 12, 16, 20])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = composed()
    pair, dataset = instantiate(config.model_pair), instantiate(config.dataset)
    tokenizer = pair.load_tokenizer()
    prompts = [tokenizer(example.prompt)["input_ids"] for example in dataset.examples()[: options.prompts]]
    ar = decoder_of("good", "method=autoregressive")
    stop = Stopping(tokenizer, stop_ids(ar.target.model, tokenizer), dataset.stop_strings)
    print(f"{config.model_pair.name}, {config.dataset.name}: {len(prompts)} prompts, {options.threads} threads, torch {torch.__version__}")
    for draft in ("good", "useless"):
        fixed = {gamma: decoder_of(draft, f"method.gamma={gamma}") for gamma in options.gammas}
        sweep = Clock({0: ar} | fixed, config.max_new_tokens, stop).run(prompts[::2])
        best = max(sweep.decoders, key=sweep.rate)
        print(f"\n{draft} draft, sweep on {len(prompts[::2])} prompts: tokens/s of each fixed gamma (0: autoregressive)")
        print("  " + "  ".join(f"{gamma}: {sweep.rate(gamma):.1f}{' *' if gamma == best else ''}" for gamma in sweep.decoders))
        contestants = {"autoregressive": ar, "best fixed": sweep.decoders[best], "cost_model": decoder_of(draft, "method=cost_model")}
        held_out = Clock(contestants, config.max_new_tokens, stop).run(prompts[1::2])
        print(f"{draft} draft, {len(prompts[1::2])} held-out prompts: best fixed gamma {best} {held_out.rate('best fixed'):.1f} tokens/s,")
        print(f"  cost_model {held_out.rate('cost_model'):.1f} tokens/s, autoregressive {held_out.rate('autoregressive'):.1f} tokens/s")
        print(f"  cost_model / best fixed:     {held_out.ratio('cost_model', 'best fixed')}   wanted >= 0.95")
        print(f"  cost_model / autoregressive: {held_out.ratio('cost_model', 'autoregressive')}   wanted >= 0.95")
        print(f"  its lengths: {dict(sorted(held_out.lengths['cost_model'].items()))}")


if __name__ == "__main__":
    main()
