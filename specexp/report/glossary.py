"""What every figure means: one plain sentence for each key of summary.json and each column and row of the tables.

The only place where these sentences stand. The page of a report shows them as tooltips, and `python -m specexp.report glossary` prints the
page docs/glossary.md. Capital letters in a key stand for what varies: K, G and B for a whole number, STAGE, TABLE and NAME for a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from specexp.report.runs import Parser

RUN = {
    "label": "The method's name and those of its settings in which the runs of the table differ.",
    "method": "The name of the decoding method that was measured.",
    "model_pair": "The name of the pair of target and draft model; of a served model, the name that the server gives it.",
    "dataset": "The name of the data set that the prompts are from.",
    "prompt_format": "\"raw\" where the model read the prompts as they stand, \"chat\" where they were messages in a chat template.",
    "template_unused": "Whether the prompts were raw although the tokenizer has a chat template.",
    "weights": "\"real\" for the models' own weights; \"standin\" for models of the named sizes with other weights, whose time and memory "
               "are true while their texts and scores mean nothing.",
    "cache": "How the target model keeps the keys and values of earlier tokens.",
    "max_new_tokens": "The most tokens that one text may have.",
    "max_cache_len": "The most tokens that a streaming cache keeps; empty for a cache that keeps all.",
    "sandbox": "How model-written code was shut off from the machine when it was judged: bubblewrap, namespaces or limits (the weakest).",
    "run": "The directory of the run, seen from the directory that the report was made of.",
    "error": "Why a failed run could not go on.",
    "state": "Whether the run is finished, unfinished, failed, or a published figure that was measured elsewhere.",
    "num_examples": "The number of different prompts.",
    "num_samples": "The number of texts: prompts times samples of each.",
    "num_tokens": "The number of tokens in all texts.",
    "num_errors": "The number of requests that a server refused for good; their prompts count in no figure.",
    "requests_per_second": "In a load test, the requests that were answered in a second, over the time in which any was under way.",
    "ttft_percentile_K": "In a load test, the seconds to the first token that K of 100 requests needed no more than.",
    "e2e_percentile_K": "In a load test, the seconds of a whole request that K of 100 requests needed no more than.",
    "texts_in_one_piece": "The number of texts that a server's stream brought in one piece, or nearly so; they have no time per token.",
    "texts_bunched": "The number of texts of which several tokens came with the first piece, which decode speed leaves out.",
    "texts_without_answer": "The number of texts in which a served model reasoned and gave no answer.",
    "texts_with_acceptance": "The number of texts whose acceptance a server reported.",
    "texts_with_totals_alone": "The number of those that a server reported in totals, so that rates by position are not known.",
    "acceptance_told_by": "The served engine whose own counts the figures of speculation are; empty where they were counted here.",
    "lossless": "Whether the method leaves the distribution of the target's texts unchanged (with temperature 0: the text itself).",
    "drafts": "Whether the method proposes tokens before the target is asked; plain decoding does not.",
    "temperature": "The temperature at which tokens were drawn; 0 means the likeliest token each time.",
    "load_per_core": "How many processes per core wanted to run in the minute before decoding began or ended, whichever was more.",
    "cpu_share": "Which part of its threads' time the process had while it decoded on a CPU; much less than 1 on a busy machine.",
    "cache_exact": "Whether the cache leaves the model's predictions unchanged; a cache that drops tokens does not.",
}
QUALITY = {
    "pass_at_1": "The chance that one generated program passes the tests of its problem, averaged over the problems.",
    "pass_at_1_raw": "The same for programs as they were generated, before anything around the code is cut off.",
    "pass_at_K": "The chance that at least one of K generated programs passes the tests of its problem, averaged over the problems.",
    "accuracy": "The share of questions with the right answer; in perplexity.json, the share of tokens that the model found the likeliest.",
    "rouge1": "ROUGE-1 F-measure: how many single words the summary shares with the reference, from 0 to 1.",
    "rouge2": "ROUGE-2 F-measure: how many pairs of neighbouring words the summary shares with the reference, from 0 to 1.",
    "rougeL": "ROUGE-L F-measure: how long a common subsequence of words the summary has with the reference, from 0 to 1.",
    "perplexity": "The exponential of the target's mean surprise (in nats) at each generated token; 1 means that it was sure of all of "
                  "them.",
    "equal_texts": "The share of texts that equal the baseline's token by token. With sampling it may be low although the method is "
                   "lossless, since both sides draw their own tokens.",
    "mean_nll": "The target's mean surprise at a token of a given text, in nats.",
    "tokens": "The number of predicted tokens of the given text.",
}
SPEED = {
    "speedup": "How many times faster the method decodes than the baseline: the ratio of their tokens per second over all prompts, the "
               "prefill left out.",
    "speedup_low": "The lower end of the speedup's 95 % interval over prompts; empty below 5 prompts.",
    "speedup_high": "The upper end of the speedup's 95 % interval over prompts; empty below 5 prompts.",
    "speedup_geomean": "The geometric mean of each prompt's own speedup, in which short and long texts count alike.",
    "e2e_speedup": "The speedup of whole requests, the prefill included.",
    "predicted_speedup": "The speedup that the measured acceptance and the costs c and v allow if the loop itself took no time (Leviathan "
                         "et al. 2023).",
    "efficiency": "Measured speedup / predicted speedup: the share of the possible gain that the loop leaves, 1 (100 %) at best.",
    "ttft": "Time to first token: mean seconds from the request to the first token (the tables show milliseconds).",
    "tpot": "Time per output token: seconds of decoding / tokens after the first emission (the tables show milliseconds).",
    "itl": "Inter-token latency: mean seconds between two emissions, of which one may hold several tokens.",
    "e2e_latency": "Mean seconds of a whole request.",
    "output_tps": "Tokens per second of whole requests, the prefill included.",
    "output_tps_per_user": "Tokens per second of decoding one text, the prefill left out.",
    "unequal_repeats": "The number of texts whose repeats were not all the same text; rates then count the tokens of all repeats.",
    "tokens_per_emission": "Mean number of tokens that come at once: with speculation, the tokens of a round.",
    "ttft_mean": "Mean of the requests' times to the first token, in seconds.",
    "ttft_std": "Standard deviation of the requests' times to the first token, in seconds.",
    "tpot_mean": "Mean of the requests' own times per output token, in seconds.",
    "tpot_std": "Standard deviation of the requests' own times per output token, in seconds.",
    "e2e_latency_mean": "Mean of the requests' whole times, in seconds.",
    "e2e_latency_std": "Standard deviation of the requests' whole times, in seconds.",
    "output_tps_mean": "Mean of the requests' own tokens per second, the prefill included.",
    "output_tps_std": "Standard deviation of the requests' own tokens per second, the prefill included.",
    "output_tps_per_user_mean": "Mean of the requests' own tokens per second of decoding.",
    "output_tps_per_user_std": "Standard deviation of the requests' own tokens per second of decoding.",
    "perplexity_mean": "Mean of the requests' own perplexities.",
    "perplexity_std": "Standard deviation of the requests' own perplexities.",
    "draft_acceptance_rate_mean": "Mean of the requests' own draft acceptance rates, from 0 to 1.",
    "draft_acceptance_rate_std": "Standard deviation of the requests' own draft acceptance rates.",
}
SPECULATION = {
    "num_spec_steps": "The number of rounds that drafted something.",
    "num_draft_tokens": "The number of drafted tokens.",
    "num_accepted_draft_tokens": "The number of drafted tokens that the target accepted.",
    "mean_acceptance_length": "Tokens that a round with a draft adds to the text on average: the accepted ones and the target's own.",
    "mean_acceptance_length_macro": "The mean of the requests' own mean acceptance lengths.",
    "draft_acceptance_rate": "Accepted tokens / drafted tokens, from 0 to 1.",
    "alpha": "The chance that a drafted token is accepted if all before it were, taken as the same at every position, from 0 to 1.",
    "conditional_acceptance_rate_K": "The chance that the K-th token of a draft is accepted if all before it were (in a tree: that one of "
                                     "the tokens at that depth is).",
    "joint_acceptance_rate_K": "The share of the rounds with a draft that accepted at least K of its tokens.",
    "mean_gamma": "Mean length of the drafts, rounds without a draft counting 0; of a tree, its depth.",
    "gamma_histogram_G": "The number of rounds whose draft had the length G.",
    "mean_entropy": "Mean entropy, in nats, of the draft model's prediction for the first drafted token, where the length rule looked at "
                    "it.",
    "entropy_histogram_B": "The number of rounds in which that entropy was at least B and less than B + 1 nats.",
    "tokens_target": "Emitted tokens that the target chose in a round without a draft, or in the prefill.",
    "tokens_draft": "Emitted tokens that were drafted and accepted.",
    "tokens_draft_STAGE": "Emitted tokens that the stage STAGE of a cascade drafted.",
    "tokens_bonus": "Emitted tokens that the target added after a draft that it accepted whole.",
    "tokens_resample": "Emitted tokens that the target put in the place of a refused one.",
    "total_tree_nodes": "The number of drafted tokens in all trees.",
    "total_paths_explored": "The number of paths from root to leaf in all trees.",
    "avg_accepted_path_length": "Mean number of accepted tokens of a tree.",
    "max_path_length_achieved": "The most tokens of a tree that were accepted at once.",
    "mean_tree_nodes": "Mean number of drafted tokens of a tree.",
    "target_forwards": "The number of forward passes of the target, prefill included.",
    "draft_forwards": "The number of forward passes of all draft models.",
    "block_efficiency": "Emitted tokens per forward pass of the target, prefill included; 1 without speculation.",
    "served_method": "The decoding method that our own server says it runs.",
    "served_acceptance_rate": "Accepted tokens / drafted tokens, as our own server reports it, from 0 to 1.",
    "served_acceptance_length": "Tokens that a round with a draft adds on average, as our own server reports it.",
}
COSTS = {
    "cost_ratio_c": "c: the time to draft one token / the baseline's time per token.",
    "verify_ratio_v": "v: the target's pass of a round / the baseline's time per token.",
    "overhead_ms_per_round": "Milliseconds of a round outside the models: verifying and the loop itself.",
    "swi_TABLE": "SWI, standardised walltime improvement: the speedup if every forward pass had the cost that TABLE gives, whatever the "
                 "machine did.",
    "best_gamma": "The fixed draft length with the highest speedup by the measured acceptance and costs; 0 means that no draft would be "
                  "best.",
    "best_gamma_speedup": "The speedup that this length would have had.",
    "oracle_speedup": "The speedup if every round had drafted exactly the tokens that were accepted.",
    "oracle_open_rounds": "The number of rounds whose draft was accepted whole, so that a longer one might have gained more.",
    "modelled_speedup": "The speedup of the rounds as they were, reckoned from the cost curve instead of the clock.",
    "mbu": "Model bandwidth utilisation: the share of the memory's bandwidth that a pass over one token uses, from 0 to 1.",
}
MEMORY = {
    "kv_bytes_target": "The most bytes of keys and values that the target's cache held (the tables show MiB).",
    "kv_bytes_draft": "The most bytes of keys and values that the draft models' caches held (the tables show MiB).",
    "kv_bytes": "The bytes of keys and values that the cache held after the given text (the table shows MiB).",
    "compression_count": "The number of rounds in which a streaming cache dropped tokens.",
    "tokens_evicted": "The number of tokens that a streaming cache dropped.",
    "peak_mem_allocated": "The most device memory in bytes that generating a text added (the tables show MB of 2^20 bytes); empty on a "
                          "CPU.",
}
EXPLAIN = {
    "rounds": "The number of rounds after the prefill.",
    "drafted_per_round": "Mean number of drafted tokens of a round.",
    "longest_draft": "The most tokens of a draft in a row; of a tree, its depth.",
    "round_ms": "Mean milliseconds of a round.",
    "draft_ms": "Mean milliseconds of a round that drafting took.",
    "target_ms": "Mean milliseconds of a round that the target's pass took.",
    "host_ms": "Mean milliseconds of a round that are left: verifying and the loop itself.",
    "phases_from": "\"clock\" where the time inside the models was measured, \"curve\" where it is reckoned from the cost curve.",
    "ceiling": "Tokens per round: the speedup if drafting and the loop took no time and a wide pass no longer than a narrow one.",
    "curve": "The cost curve: seconds of the target's pass by its number of tokens, and of one drafted token.",
    "missing": "A sentence for everything that is not known of this run.",
}
SECTIONS = {
    "The run": RUN, "Quality": QUALITY, "Speed": SPEED, "Speculation": SPECULATION, "Costs, and what they allow": COSTS, "Memory": MEMORY,
    "Of `report explain --json` alone": EXPLAIN,
}  # fmt: skip
MEANINGS = {key: meaning for section in SECTIONS.values() for key, meaning in section.items()}
VARIABLE = {"K": r"\d+", "G": r"\d+", "B": r"\d+", "STAGE": ".+", "TABLE": ".+"}
INTRODUCTION = """\
# Glossary

Every key of summary.json, and every column and row of the tables, with its unit. A text is what was generated for one prompt; a round is
one turn of drafting and verifying; a figure that does not exist for a run is empty (null).

The same key after `baseline_` is the baseline's figure, after `baseline_NAME_` that of a further baseline; `_vs_NAME` after a key says that
the figure is against that one. Capital letters in a key stand for what varies.
"""


def meaning(key: str) -> str | None:
    """The sentence for a key of summary.json or a column of a table; None for a key that has none, such as a setting's."""
    if (entry := entry_of(key)) is not None:
        return MEANINGS[entry]
    if key.startswith("baseline_") and (entry := _of_baseline(key)):
        return f"Of the baseline. {MEANINGS[entry]}"
    own, against, name = key.rpartition("_vs_")
    return f"{MEANINGS[entry]} Against {name}." if against and (entry := entry_of(own)) else None


def entry_of(key: str) -> str | None:
    """The glossary's own key for a key without the name of a baseline."""
    if key in MEANINGS:
        return key
    for entry in MEANINGS:
        stem, _, variable = entry.rpartition("_")
        if variable in VARIABLE and re.fullmatch(f"{stem}_{VARIABLE[variable]}", key):
            return entry
    return None


def _of_baseline(key: str) -> str | None:
    """baseline_tpot and baseline_NAME_tpot -> tpot."""
    words = key.split("_")[1:]
    return next(filter(None, (entry_of("_".join(words[start:])) for start in range(len(words)))), None)


def shown_as() -> dict[str, list[str]]:
    """Entry -> the labels under which tables show it."""
    from specexp.report import columns, explain, papers, table

    labels = [(column.key, column.head) for column in columns.COLUMNS]
    labels += [(row.key, row.label) for _, rows in table.SECTIONS for row in rows]
    labels += [("speedup_low", table.INTERVAL), *explain.LABELS, *papers.CACHE_COLUMNS]
    found: dict[str, list[str]] = {}
    for key, label in labels:
        names = found.setdefault(entry_of(key) or key, [])
        names += [label] if label not in names else []
    return found


def page() -> Iterator[str]:
    """The lines of docs/glossary.md."""
    yield INTRODUCTION
    labels = shown_as()
    for title, entries in SECTIONS.items():
        yield f"## {title}\n\n| key | in tables | meaning |\n|---|---|---|"
        for key, text in entries.items():
            yield f"| `{key}` | {', '.join(labels.get(key, ()))} | {text} |"
        yield ""


def main(arguments: Sequence[str]) -> None:
    Parser("glossary", "What every figure means: the page docs/glossary.md of the documentation.").parse_args(arguments)
    print("\n".join(page()).rstrip())
