"""All methods. Each is a function that builds a drafter and a verifier and returns the decoder made of them. conf/method/NAME.yaml holds
its arguments, and the first sentence of its docstring is its line in the list of methods.

A function's first parameters are supplied by the job, by their names:

- `target`, `draft` and `drafts` are runners of the pair's models (`drafts`: by name, the biggest first),
- `captured` is a runner of the target with a static cache,
- `oracle` is a second runner over the target's weights,
- `pair` is the models as they are configured.

A method that names none of these decodes elsewhere, on a server for example. All other parameters are set by the user (method.gamma=4).

A part that can be exchanged is a parameter with a group of its own: verifier@method.verifier=typical, policy@method.policy=egag. A policy
says how long drafts are, and is used in place of gamma. With first_target the first token comes from the target's prefill alone; if it is
false, even the first token is drafted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from specexp.decoding.beam import BeamDecoder, GnmtRule, PowerRule
from specexp.decoding.cost_model import CostModel
from specexp.decoding.decoder import Decoder
from specexp.decoding.length_rules import EGAG, AdaEDL, CalibratedEGAG, ConfidenceThreshold, FixedLength, HeuristicLength
from specexp.decoding.protocols import Drafter, LengthRule, Runner, Verifier
from specexp.decoding.verifiers import AnotherModels, LenientArgmax, RejectionVerifier
from specexp.drafters.copying import MaxGramDrafter, PromptLookupDrafter
from specexp.drafters.csd import KMatrix, cascade
from specexp.drafters.fixed_trees import DrawnTreeDrafter, FixedShape
from specexp.drafters.grown_trees import Adaptive, BestFirst, GrownTreeDrafter, Threshold
from specexp.drafters.katz import KatzDrafter, load_katz
from specexp.drafters.medusa import MedusaDrafter, static_tree
from specexp.drafters.model import ModelDrafter, NoDraft
from specexp.drafters.nasd import BasicStorage, NasdDrafter, NgramStorage
from specexp.drafters.sequoia import SequoiaShape
from specexp.drafters.staged import StagedTreeDrafter
from specexp.drafters.suffixes import LatestMatch, Match
from specexp.drafters.synthetic import Foresight, PlantedDrafter, Spoiling, SyntheticDrafter
from specexp.models.heads import HeadsFile, fitted
from specexp.models.pair import ModelPair, Vocabulary
from specexp.peers import GreedyLoop, PeerLoop
from specexp.peers.endpoint import Endpoint
from specexp.runners.beams import beam_runner

LOSSLESS = RejectionVerifier()


def fixed(gamma: int, policy: LengthRule | None) -> LengthRule:
    """Return the chosen policy, or else the rule of gamma tokens every round."""
    return FixedLength(gamma) if policy is None else policy


# --- The target alone


def autoregressive(target: Runner) -> Decoder:
    """The target decodes one token per pass; every speedup is measured against this."""
    return Decoder(target, NoDraft(), LOSSLESS)


def captured(captured: Runner) -> Decoder:
    """The target decodes one token per pass, with its passes captured as CUDA graphs, which makes it the faster baseline on CUDA."""
    return Decoder(captured, NoDraft(), LOSSLESS)


def draft_alone(draft: Runner) -> Decoder:
    """The draft model decodes alone, so the text is its own and not the target's; it is meant as a further baseline."""
    return Decoder(draft, NoDraft(), AnotherModels())


def beam(target: Runner, num_beams: int = 4, top_k: int | None = 3, min_length: int = 5, alpha: float = 1.2) -> BeamDecoder:
    """Beam search looks for the likeliest whole text instead of choosing the likeliest next token, so its text is not the target's own."""
    rule = GnmtRule(num_beams, top_k, min_length, alpha)
    return BeamDecoder(beam_runner(target), rule)


def power_beam(
    target: Runner, num_beams: int = 4, top_k: int | None = None, alpha: float = 1.0, early_stopping: bool | str = False
) -> BeamDecoder:
    """Beam search with the length penalty of transformers, which also ends the search as transformers does."""
    rule = PowerRule(num_beams, alpha, early_stopping, top_k)
    return BeamDecoder(beam_runner(target), rule)


# --- A draft model rolls out a chain


def speculative(
    target: Runner,
    draft: Runner,
    gamma: int = 4,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """A draft model proposes gamma tokens, and the target verifies them in one pass (speculative sampling: Leviathan et al. 2023,
    arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318)."""
    return Decoder(target, ModelDrafter(draft, fixed(gamma, policy)), verifier, first_target)


def heuristic(
    target: Runner,
    draft: Runner,
    gamma: int = 20,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft length follows transformers' schedule: two more after a draft that was accepted whole, else one less."""
    return Decoder(target, ModelDrafter(draft, HeuristicLength(gamma) if policy is None else policy), verifier, first_target)


def confidence(
    target: Runner, draft: Runner, threshold: float = 0.4, gamma_max: int = 20, verifier: Verifier = LOSSLESS, first_target: bool = True
) -> Decoder:
    """The draft ends with the first token that the draft model thought unlikely (transformers' assistant_confidence_threshold)."""
    return Decoder(target, ModelDrafter(draft, ConfidenceThreshold(threshold, gamma_max)), verifier, first_target)


def adaedl(
    target: Runner,
    draft: Runner,
    threshold: float = 0.4,
    gamma_max: int = 16,
    entropy_factor: float = 0.2,
    target_rate: float = 0.9,
    step: float = 0.01,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft ends where the draft model's entropy says that acceptance is unlikely, by a threshold that adapts (AdaEDL,
    arXiv:2410.18351)."""
    return Decoder(target, ModelDrafter(draft, AdaEDL(threshold, gamma_max, entropy_factor, target_rate, step)), verifier, first_target)


def egag(
    target: Runner,
    draft: Runner,
    gamma_min: int = 1,
    gamma_max: int = 6,
    ema: float = 0.9,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """Drafts are longer where the draft model is sure of its first token (entropy-guided adaptive gamma, EGAG)."""
    return Decoder(target, ModelDrafter(draft, EGAG(gamma_min, gamma_max, ema)), verifier, first_target)


def egag_calibrated(
    target: Runner,
    draft: Runner,
    gamma_min: int = 1,
    gamma_max: int = 8,
    ema: float = 0.0,
    window: int = 256,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """EGAG by the rank of the entropy among recent ones, so that the draft lengths use their whole range."""
    return Decoder(target, ModelDrafter(draft, CalibratedEGAG(gamma_min, gamma_max, ema, window)), verifier, first_target)


def cost_model(
    target: Runner, draft: Runner, gamma_max: int = 20, budget: float = 0.02, verifier: Verifier = LOSSLESS, first_target: bool = True
) -> Decoder:
    """The draft length is the one with the most expected tokens per second, by measured times, and 0 where drafting does not pay."""
    return Decoder(target, ModelDrafter(draft, CostModel(gamma_max, budget)), verifier, first_target)


# --- Copies, tables and counts: no draft model


def prompt_lookup(
    target: Runner,
    gamma: int = 10,
    max_ngram: int = 3,
    min_ngram: int = 1,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is a copy of what followed the last few tokens earlier in the text (prompt lookup: Saxena 2023; LLMA, arXiv:2304.04487)."""
    return Decoder(target, PromptLookupDrafter(fixed(gamma, policy), max_ngram, min_ngram), verifier, first_target)


def max_gram(
    target: Runner,
    gamma: int = 8,
    min_match: int = 2,
    max_match: int = 32,
    match: Callable[[int, int], Match] = LatestMatch,
    fallback: Drafter | None = None,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is a copy of what followed the longest match in prompt and text (max-gram of Cascade Speculative Drafting,
    arXiv:2312.11462)."""
    drafter = MaxGramDrafter(fixed(gamma, policy), match(min_match, max_match), NoDraft() if fallback is None else fallback)
    return Decoder(target, drafter, verifier, first_target)


def nasd(
    target: Runner,
    order: int = 4,
    gamma: int = 4,
    top_k_filler: int = 1,
    stop_if_unknown: bool = True,
    reset_in_between: bool = True,
    storage: Callable[[int], NgramStorage] = BasicStorage,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is what followed the last tokens most often, by counts over prompt and text that grow every round (NASD; NAPD with
    top_k_filler=1)."""
    drafter = NasdDrafter(storage(order), fixed(gamma, policy), top_k_filler, stop_if_unknown, reset_in_between)
    return Decoder(target, drafter, verifier, first_target)


def katz(
    target: Runner,
    pair: ModelPair,
    table: str,
    gamma: int = 4,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """A Katz back-off trigram drafts, by a table of counts of a corpus."""
    return Decoder(target, KatzDrafter(load_katz(table), fixed(gamma, policy), Vocabulary(pair)), verifier, first_target)


# --- Several drafters


def csd(
    target: Runner,
    drafts: Mapping[str, Runner],
    pair: ModelPair,
    k_matrix: Sequence[Sequence[int]],
    leniency: float = 3.0,
    proposal: int = 10,
    min_match: int = 1,
    match: Callable[[int, int], Match] = LatestMatch,
    fallback: Drafter | None = None,
    reviewer: Verifier | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """Draft models review what smaller ones and max-gram propose (Cascade Speculative Drafting: Chen et al. 2023, arXiv:2312.11462)."""
    matrix = KMatrix(k_matrix, pair)
    copies = MaxGramDrafter(FixedLength(proposal), match(min_match, 32), NoDraft() if fallback is None else fallback)
    drafter = cascade(drafts, copies, "max_gram", matrix, LenientArgmax(leniency) if reviewer is None else reviewer)
    return Decoder(target, drafter, verifier, first_target)


# --- Token trees


def tree(
    target: Runner,
    draft: Runner,
    branching: int | Sequence[int] = (2, 2, 1, 1),
    depth: int | None = None,
    max_nodes: int | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is a token tree of fixed shape instead of a chain, all of it verified in one target pass (SpecInfer, arXiv:2305.09781)."""
    return Decoder(target, DrawnTreeDrafter(draft, FixedShape(branching, depth, max_nodes)), verifier, first_target)


def sequoia(
    target: Runner,
    draft: Runner,
    max_nodes: int = 16,
    max_depth: int = 8,
    max_branching: int = 8,
    acceptance: Sequence[float] | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is the token tree with the most expected accepted tokens for its size, by measured acceptance rates (Sequoia,
    arXiv:2402.12374)."""
    shapes = SequoiaShape(max_nodes, max_depth, max_branching, acceptance)
    return Decoder(target, DrawnTreeDrafter(draft, shapes), verifier, first_target)


def best_first_tree(
    target: Runner,
    draft: Runner,
    max_nodes: int = 16,
    depth: int = 8,
    branching: int = 4,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is a tree of the draft model's best tokens, those with the likeliest paths (as in EAGLE-2, arXiv:2406.16858)."""
    return Decoder(target, GrownTreeDrafter(draft, BestFirst(branching, depth), max_nodes), verifier, first_target)


def threshold_tree(
    target: Runner,
    draft: Runner,
    depth: int = 5,
    branching: int = 2,
    threshold: float = 0.03,
    max_nodes: int = 128,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is a tree of the draft model's best tokens that goes deeper where the path's probability reaches a threshold (DynaTree)."""
    return Decoder(target, GrownTreeDrafter(draft, Threshold(branching, depth, threshold), max_nodes), verifier, first_target)


def adaptive_tree(
    target: Runner,
    draft: Runner,
    max_nodes: int = 32,
    base_depth: int = 5,
    max_depth: int = 8,
    min_branching: int = 1,
    mid_branching: int = 2,
    max_branching: int = 3,
    high: float = 0.9,
    low: float = 0.4,
    stop: float = 0.1,
    deep: float = 0.5,
    threshold: float = 0.05,
    share: float = 0.7,
    depth_rate: float = 1.0,
    high_rate: float = 0.05,
    window: int = 10,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The draft is a tree whose branching and depth follow the draft model's confidence and the acceptance of the last rounds
    (DynaTree)."""
    branching, depth = (high, low, min_branching, mid_branching, max_branching), (base_depth, max_depth, stop, deep, threshold)
    growth = Adaptive(*branching, *depth, share, depth_rate, high_rate, window)
    return Decoder(target, GrownTreeDrafter(draft, growth, max_nodes), verifier, first_target)


def staged(
    target: Runner,
    draft: Runner,
    pair: ModelPair,
    table: str,
    max_nodes: int = 16,
    depth: int = 8,
    branching: int = 4,
    guesses: int = 4,
    guess_branching: int = 2,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """A trigram guesses what the draft model will put into its tree, which saves draft passes (staged speculative decoding: Spector and Re
    2023, arXiv:2308.04623)."""
    growth, trigram = BestFirst(branching, depth), load_katz(table)
    drafter = StagedTreeDrafter(draft, growth, max_nodes, trigram, Vocabulary(pair), guesses, guess_branching)
    return Decoder(target, drafter, verifier, first_target)


# --- Heads on the target's states


def medusa(
    target: Runner,
    pair: ModelPair,
    heads: str | None,
    nodes: int | None = 16,
    ranks: int | None = None,
    paths: Sequence[Sequence[int]] | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """Heads on the target guess several tokens ahead, and a fixed tree of their guesses is verified in one pass (Medusa: Cai et al. 2024,
    arXiv:2401.10774)."""
    target.facts.check_states()  # before the heads' files are looked at, and before any weights
    file = HeadsFile(heads, pair.target)
    shape = static_tree(file, nodes, ranks, paths)
    return Decoder(target, MedusaDrafter(target, fitted(file, target), shape), verifier, first_target)


# --- Drafters of a chosen quality, for measuring the rest


def synthetic(
    target: Runner,
    oracle: Runner,
    gamma: int = 4,
    alpha: float = 0.8,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """A drafter that is told the answer beforehand has a chosen acceptance rate and costs nothing, to measure everything else."""
    return Decoder(target, SyntheticDrafter(Foresight(oracle), fixed(gamma, policy), Spoiling(alpha)), verifier, first_target)


def planted(
    target: Runner,
    draft: Runner,
    oracle: Runner,
    gamma: int = 4,
    alpha: float = 0.8,
    policy: LengthRule | None = None,
    verifier: Verifier = LOSSLESS,
    first_target: bool = True,
) -> Decoder:
    """The pair's draft model runs at its full cost, and its tokens are replaced so that a chosen share is right, to measure the speed at
    any acceptance rate."""
    return Decoder(target, PlantedDrafter(draft, Foresight(oracle), fixed(gamma, policy), Spoiling(alpha)), verifier, first_target)


# --- Loops of other libraries over the same weights, and servers. They are imported when asked for, because transformers takes seconds.


def hf_generate(target: Runner, cache: str = "dynamic") -> PeerLoop:
    """transformers decodes with its own `generate` on the same weights, with its own loop, cache and sampling."""
    from specexp.peers.generate import OwnCache, TransformersGenerate
    from specexp.peers.request import shared_model

    kind = OwnCache(cache)
    return TransformersGenerate(shared_model(target), kind)


def hf_assisted(
    target: Runner, draft: Runner, gamma: int = 20, schedule: str = "constant", confidence_threshold: float = 0.4
) -> PeerLoop:
    """transformers decodes by its assisted generation, with the pair's draft model."""
    from specexp.peers.assisted import Assistant, AssistantKnobs, AssistedGenerate
    from specexp.peers.request import shared_model

    knobs = AssistantKnobs(gamma, schedule, confidence_threshold)
    return AssistedGenerate(shared_model(target), Assistant(shared_model(draft), knobs))


def hf_prompt_lookup(target: Runner, gamma: int = 10, max_ngram: int = 2) -> PeerLoop:
    """transformers decodes by its prompt lookup, which copies what followed the last few tokens where they first stood."""
    from specexp.peers.assisted import AssistedGenerate
    from specexp.peers.generate import PromptLookup
    from specexp.peers.request import shared_model

    lookup = PromptLookup(gamma, max_ngram)
    return AssistedGenerate(shared_model(target), lookup)


def hf_early_exit(target: Runner, layers: int | None = None, gamma: int = 20, confidence_threshold: float = 0.4) -> PeerLoop:
    """transformers decodes by its early exit, in which the target's own first layers draft (LayerSkip, arXiv:2404.16710)."""
    from specexp.peers.assisted import AssistedGenerate
    from specexp.peers.early_exit import EarlyExit, ExitKnobs
    from specexp.peers.request import shared_model

    knobs = ExitKnobs(layers, gamma, confidence_threshold)
    return AssistedGenerate(shared_model(target), EarlyExit(shared_model(target), knobs))


def ort_generate(target: Runner, directory: str | None = None) -> GreedyLoop:
    """onnxruntime-genai decodes one token per pass with the same weights, in float32 on the CPU, greedily."""
    from specexp.peers.ort import Alone, OrtGenerate, OrtSettings
    from specexp.peers.request import shared_model

    settings = OrtSettings(directory)
    return OrtGenerate(shared_model(target), settings, Alone())


def ort(target: Runner, draft: Runner, gamma: int = 5, directory: str | None = None) -> GreedyLoop:
    """onnxruntime-genai decodes speculatively with the pair's draft model, in float32 on the CPU, greedily."""
    from specexp.peers.ort import DraftModel, OrtGenerate, OrtSettings, Width
    from specexp.peers.request import shared_model

    settings, width = OrtSettings(directory), Width(gamma)
    return OrtGenerate(shared_model(target), settings, DraftModel(shared_model(draft), width))


def ort_prompt_lookup(target: Runner, gamma: int = 8, ngram: int = 3, directory: str | None = None) -> GreedyLoop:
    """onnxruntime-genai decodes speculatively with n-grams of the text itself, in float32 on the CPU, greedily."""
    from specexp.peers.ort import NgramLookup, OrtGenerate, OrtSettings, Width
    from specexp.peers.request import shared_model

    settings, lookup = OrtSettings(directory), NgramLookup(Width(gamma), ngram)
    return OrtGenerate(shared_model(target), settings, lookup)


def endpoint(
    url: str,
    model: str | None = None,
    api: str = "completions",
    concurrency: int = 1,
    on_error: str = "stop",
    api_key_env: str = "OPENAI_API_KEY",
    timeout_seconds: float = 600.0,
    retries: int = 6,
    max_tokens_field: str = "max_tokens",
    body: Mapping[str, object] | None = None,
    omit: Sequence[str] = (),
) -> Endpoint:
    """A server that speaks OpenAI's API decodes and is timed from outside; no model is loaded here."""
    return Endpoint(url, model, api, concurrency, on_error, api_key_env, timeout_seconds, retries, max_tokens_field, body, omit)
