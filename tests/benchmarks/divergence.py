"""Counts where greedy texts of a method and of autoregressive decoding part in 16 bits, and whether rounding explains it.

`python tests/benchmarks/divergence.py [--tokens 20000] [OVERRIDE...]`, overrides as for `python -m specexp`:
`python tests/benchmarks/divergence.py model_pair=llama7b_160m model_pair.weights=standin dtype=bfloat16 cache=static`
"""

import argparse

import torch
from configured import composed, decoder_of
from hydra.utils import instantiate
from near_ties import first_difference, is_near_tie, noise_bound

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.sampling import GREEDY
from specexp.experiment.generation import generate
from specexp.runners.runner import ModelRunner

WIDTH = 5  # rows of the wide pass that tells the noise


def sides(overrides):
    config = composed(*overrides)
    tokenizer = instantiate(config.model_pair).load_tokenizer()
    prompts = [tokenizer(example.prompt)["input_ids"] for example in instantiate(config.dataset).examples()]
    return decoder_of(config), decoder_of(config, config.baselines.eager), prompts


def row(runner, ids, width):
    """[V] logits behind `ids`, of a pass over the last `width` tokens of them."""
    runner.start(ids, 8)
    cut = len(ids) - width + 1
    runner.logits(Context(ids[: cut - 1], runner.device), empty_draft(runner.device), 1)
    return runner.logits(Context(ids[:cut], runner.device), Draft.of_ids(ids[cut:], runner.device), width)[-1].float()


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=256)
    options, overrides = parser.parse_known_args()
    method, baseline, prompts = sides(overrides)
    runner, tokens, parted, differences, gaps = ModelRunner(method.target.model), 0, 0, [], []
    for index in range(-(-options.tokens // options.length)):
        prompt = prompts[index % len(prompts)][: len(prompts[index % len(prompts)]) - index // len(prompts)]
        ours, theirs = (generate(side, prompt, options.length, lambda ids, since: None, GREEDY, (index,)).token_ids for side in (method, baseline))
        tokens += len(ours)
        noise = row(runner, [*prompt, *theirs[:40]], WIDTH) - row(runner, [*prompt, *theirs[:40]], 1)
        differences += noise[noise.isfinite()].tolist()
        if (at := first_difference(ours, theirs)) is not None:
            logits, parted = row(runner, [*prompt, *theirs[:at]], 1), parted + 1
            gaps.append(float(logits[ours[at]] - logits[theirs[at]]))
    bound = noise_bound(differences)
    real = sum(not is_near_tie(gap, bound) for gap in gaps)
    print(f"{tokens} tokens on {runner.device} in {runner.model.dtype}, torch {torch.__version__}: {' '.join(overrides) or 'defaults'}")
    print(f"texts that part: {parted}, near-ties: {parted - real}, real divergences: {real} (bound on the noise of a logit: {bound:.4g})")


if __name__ == "__main__":
    main()
