"""Prints our loop beside transformers' and onnxruntime-genai's on one pair, interleaved: `python tests/benchmarks/peers_time.py [--tokens 128]`.

A 24-layer float32 target of width 256 and a 2-layer draft that computes the same function, so every draft is accepted whole: what is
compared is loops at equal acceptance and equal gamma. Nothing is asserted: run it on an idle machine. Best of all repeats, seconds per
request, prefill included. Without the extra `peers`, onnxruntime-genai is left out.
"""

import argparse
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import FixedLength
from specexp.decoding.sampling import GREEDY
from specexp.decoding.verifiers import RejectionVerifier
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.experiment.generation import generate
from specexp.peers.assisted import Assistant, AssistantKnobs, AssistedGenerate
from specexp.peers.generate import OwnCache, TransformersGenerate
from specexp.peers.ort import DraftModel, OrtGenerate, OrtSettings, Width, missing
from specexp.peers.request import SharedModel
from specexp.runners.compiled import CompiledRunner
from specexp.runners.runner import ModelRunner


def pair(layers, width, positions=2048):
    """(target, draft) that give the same logits: all but the target's first two layers add nothing."""
    torch.manual_seed(0)
    shape = {"vocab_size": 2048, "hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": max(1, width // 64)}
    shape["max_position_embeddings"] = positions
    models = [LlamaForCausalLM(LlamaConfig(num_hidden_layers=count, **shape)).eval().requires_grad_(False) for count in (layers, 2)]
    target, draft = models
    for layer in target.model.layers[2:]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    draft.load_state_dict({key: value for key, value in target.state_dict().items() if key in draft.state_dict()})
    return target, draft


def ours(runner, drafter):
    return Decoder(runner, drafter, RejectionVerifier())


def sides(target, draft, gammas):
    found = {
        "AR, ours": ours(ModelRunner(target), NoDraft()),
        "AR, compiled": ours(CompiledRunner(target), NoDraft()),
        "hf_generate": TransformersGenerate(SharedModel(target)),
        "hf_generate, static": TransformersGenerate(SharedModel(target), OwnCache("static")),
    }
    for gamma in gammas:
        knobs = AssistantKnobs(gamma, "constant", 0.0)
        for name, runner in (("ours", ModelRunner), ("compiled", CompiledRunner)):
            found[f"speculative, {name}, gamma={gamma}"] = ours(runner(target), ModelDrafter(runner(draft), FixedLength(gamma)))
        found[f"hf_assisted, gamma={gamma}"] = AssistedGenerate(SharedModel(target), Assistant(SharedModel(draft), knobs))
    return found | {"hf_assisted, default": AssistedGenerate(SharedModel(target), Assistant(SharedModel(draft)))}


def engine_sides(target, draft, gammas, place):
    """onnxruntime-genai's, their weights converted into the directory `place`."""
    settings = OrtSettings(place)
    found = {"ort_generate": OrtGenerate(SharedModel(target), settings)}
    for gamma in gammas:
        found[f"ort, gamma={gamma}"] = OrtGenerate(SharedModel(target), settings, DraftModel(SharedModel(draft), Width(gamma)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--gammas", type=int, nargs="*", default=[5, 12])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = pair(options.layers, options.width)
    decoders = sides(*models, options.gammas)
    if missing() is None:
        place = TemporaryDirectory()
        decoders |= engine_sides(*models, options.gammas, place.name)
    prompt = torch.randint(2048, (64,)).tolist()
    best, results = dict.fromkeys(decoders, float("inf")), {}
    for repeat in range(options.repeats + 1):  # the first warms up
        for name, decoder in decoders.items():
            began = perf_counter()
            results[name] = generate(decoder, prompt, options.tokens, lambda ids, since: None, GREEDY, (0,))
            best[name] = min(best[name], perf_counter() - began) if repeat else best[name]
            if not repeat and "compiled" in name:
                print(f"{name}: first call {perf_counter() - began:.1f} s")
    texts = {tuple(result.token_ids) for result in results.values()}
    print(f"{options.tokens} tokens, {options.threads} threads, torch {torch.__version__}; {'all texts are equal' if len(texts) == 1 else 'TEXTS DIFFER'}")
    for name, seconds in best.items():
        accepted = sum(step.accepted for step in results[name].rounds), sum(step.drafted for step in results[name].rounds)
        rounds = sum(step.drafted > 0 for step in results[name].rounds)
        per_token = 1000 * results[name].decode_seconds / max(1, options.tokens - len(results[name].rounds[0].tokens))
        print(f"{name:32} {seconds:7.3f} s   last decode {per_token:6.2f} ms per token   accepted {accepted[0]} of {accepted[1]} in {rounds} rounds")
    for gamma in options.gammas:
        if missing() is None:
            print(f"compiled speculative over ort at gamma={gamma}: {best[f'ort, gamma={gamma}'] / best[f'speculative, compiled, gamma={gamma}']:.2f}x")
        print(f"speculative over hf_assisted at gamma={gamma}: {best[f'hf_assisted, gamma={gamma}'] / best[f'speculative, ours, gamma={gamma}']:.2f}x")
    if missing() is None:
        print(f"compiled AR over ort_generate: {best['ort_generate'] / best['AR, compiled']:.2f}x")
    print(f"AR over hf_generate: {best['hf_generate'] / best['AR, ours']:.2f}x")


if __name__ == "__main__":
    main()
