"""Results in the forms of published work: DynaTree's result files (`--s2`), the EGAG and NASD ablation's table, the table of caches.

DynaTree (LLM-Efficient-Reasoning): `benchmark_comprehensive_results.json`, `benchmark_long_seq_results.json`, `spec_decode_all.json`,
`tree_param_search.json` and `paper.csv`, for the plot scripts that read those. Keys are the original's, meanings ours where the
original's were faulty: acceptance counts drafted tokens alone (the bonus has its own key), perplexity is that of the generated tokens
alone, memory is the generation's own growth (null on CPU), times are in milliseconds.

The ablation is a CSV with a line per run and prompt (see ABLATION), which `experiment=ablation` also leaves in its sweep's directory. The
table of caches is what one evaluation of perplexity shows on the terminal. Computes nothing but units and each prompt's own figures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from specexp.figures.acceptance import quotient
from specexp.figures.record import Record
from specexp.figures.speed import summarise_speed, whole_request
from specexp.report.rows import make_rows, settings_of
from specexp.report.runs import Parser, Run, find_runs
from specexp.report.table import heading, plain_console
from specexp.tracking.records import to_json, write_whole

MEBI = 2.0**20
PAPER = ("experiment", "method", "throughput_tps", "throughput_std", "speedup", "ttft_ms", "ttft_std", "tpot_ms", "tpot_std",
         "acceptance_rate", "acceptance_std", "avg_path_length", "path_length_std", "total_rounds", "tokens_per_round", "peak_memory_mb")


def write_files(runs: Sequence[Run], directory: Path) -> None:
    """All five, of the runs that are finished."""
    done = [run for run in runs if run.finished]
    labels = {row["run"]: row["label"] for row in make_rows(done) if "run" in row}
    for name, content in {
        "benchmark_comprehensive_results.json": [entry for run in done for entry in comprehensive(run)],
        "benchmark_long_seq_results.json": [entry for run in done for entry in long_sequence(run)],
        "spec_decode_all.json": all_methods(done),
        "tree_param_search.json": tree_search(done),
    }.items():
        write_whole(directory / name, to_json(content, indent=2) + "\n")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, PAPER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(paper_row(run, labels[run.name]) for run in done)
    write_whole(directory / "paper.csv", stream.getvalue())


def comprehensive(run: Run) -> Iterator[dict]:
    """The method's entry."""
    s = run.summary
    yield {
        **_head(run),
        **{f"{ours}_{part}": _scaled(s.get(f"{theirs}_{part}"), unit) for ours, theirs, unit in (
            ("throughput", "output_tps", 1), ("ttft", "ttft", 1000), ("tpot", "tpot", 1000), ("total_time", "e2e_latency", 1),
            ("ppl", "perplexity", 1)) for part in ("mean", "std")},
        "acceptance_rate": s.get("draft_acceptance_rate"),
        "acceptance_with_bonus": quotient(s.get("num_accepted_draft_tokens", 0) + s.get("num_spec_steps", 0), s.get("num_draft_tokens")),
        "tokens_per_round": s.get("tokens_per_emission"), "total_rounds": s.get("num_spec_steps"),
        **_memory(s), "num_samples": s.get("num_samples"),
    }


def long_sequence(run: Run) -> Iterator[dict]:
    s = run.summary
    memory = _memory(s)
    yield {**_head(run), "throughput": s.get("output_tps"), "total_time": s.get("e2e_latency"),
           "acceptance_rate": s.get("draft_acceptance_rate"), "memory_start_mb": None, **memory}


def _head(run: Run) -> dict:
    s = run.summary
    streaming = s.get("max_cache_len") is not None
    return {"method": "streaming" if streaming else "standard", "name": s.get("method"), "target_tokens": run.config.get("max_new_tokens"),
            "actual_tokens": quotient(s.get("num_tokens"), s.get("num_samples")), "max_cache_len": s.get("max_cache_len")}


def _memory(s: dict) -> dict:
    growth = _scaled(s.get("peak_mem_allocated"), 1 / MEBI)
    return {"peak_memory_mb": growth, "memory_growth_mb": growth, "compression_count": s.get("compression_count"),
            "tokens_evicted": s.get("tokens_evicted")}


def all_methods(runs: Sequence[Run]) -> dict:
    """{config, results, summary}; lists hold a value per request."""
    results = [_method(run) for run in runs]
    best = max((result for result in results if result["speedup"]), key=lambda result: result["speedup"], default={})
    config = runs[0].config if runs else {}
    pair = config.get("model_pair") or {}
    return {
        "config": {"target_model": (pair.get("target") or {}).get("name"), "draft_model": (pair.get("draft") or {}).get("name"),
                   "max_new_tokens": config.get("max_new_tokens"), "num_prompts": runs[0].summary.get("num_examples") if runs else 0,
                   "num_runs": config.get("repeats")},
        "results": results,
        "summary": {"baseline_throughput": runs[0].summary.get("baseline_output_tps") if runs else None, "best_method": best.get("method"),
                    "best_speedup": best.get("speedup"), "best_throughput": best.get("avg_throughput")},
    }


def _method(run: Run) -> dict:
    sides, s, settings = [record.method for record in run.records()], run.summary, settings_of(run)
    seconds = [side.request_seconds for side in sides]
    names = {"K": "gamma", "tree_depth": "depth", "branch_factor": "branching", "threshold": "threshold"}
    return {
        "method": s.get("method"), **{ours: settings[f"method.{key}"] for ours, key in names.items() if f"method.{key}" in settings},
        "max_cache_len": s.get("max_cache_len"),
        "throughputs": [quotient(*whole_request(side)) for side in sides],
        "latencies": seconds,
        "acceptance_rates": [quotient(side.accepted, side.drafted) for side in sides],
        "avg_path_lengths": [quotient(side.accepted, len(side.rounds)) for side in sides],
        "total_tokens": s.get("num_tokens"), "total_time": sum(seconds),
        "avg_throughput": s.get("output_tps_mean"), "std_throughput": s.get("output_tps_std"), "avg_latency": s.get("e2e_latency"),
        "avg_acceptance_rate": s.get("draft_acceptance_rate_mean"), "speedup": s.get("e2e_speedup"),
    }


def tree_search(runs: Sequence[Run]) -> dict:
    """{config, prompts, results, best_overall, best_per_token_length} of the runs whose method has depth and branching."""
    results = []
    for run in runs:
        settings = {key: settings_of(run).get(f"method.{key}") for key in ("depth", "branching", "threshold")}
        if isinstance(settings["depth"], int) and isinstance(settings["branching"], int):
            results.append({"depth": settings["depth"], "branch_factor": settings["branching"], "threshold": settings["threshold"],
                            "tokens": run.config.get("max_new_tokens"), "throughput": run.summary.get("output_tps"),
                            "speedup": run.summary.get("speedup"), "acceptance_rate": run.summary.get("draft_acceptance_rate"),
                            "avg_path_length": run.summary.get("avg_accepted_path_length")})
    config = {f"{key}s": sorted({r[key] for r in results if r[key] is not None}) for key in ("depth", "branch_factor", "threshold")}
    lengths = sorted({r["tokens"] for r in results if r["tokens"] is not None})
    return {"config": {**config, "token_lengths": lengths, "num_runs": runs[0].config.get("repeats") if runs else None},
            "prompts": runs[0].summary.get("num_examples") if runs else 0, "results": results, "best_overall": _best(results),
            "best_per_token_length": {str(length): _best([r for r in results if r["tokens"] == length]) for length in lengths}}


def _best(results: Sequence[dict]) -> dict | None:
    return max((r for r in results if r["speedup"]), key=lambda r: r["speedup"], default=None)


def paper_row(run: Run, label: object) -> dict:
    s = run.summary
    ms = {key: _scaled(s.get(key), 1000) for key in ("ttft", "ttft_std", "tpot_mean", "tpot_std")}
    return dict(zip(PAPER, (
        s.get("dataset"), label, s.get("output_tps_mean"), s.get("output_tps_std"), s.get("speedup"), *ms.values(),
        s.get("draft_acceptance_rate_mean"), s.get("draft_acceptance_rate_std"), s.get("avg_accepted_path_length"), None,
        s.get("num_spec_steps"), s.get("tokens_per_emission"), _scaled(s.get("peak_mem_allocated"), 1 / MEBI),
    ), strict=True))


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


SETTINGS = ("gamma", "gamma_min", "gamma_max", "ema", "order", "top_k_filler")
COLUMNS = ("method", *SETTINGS, "seed", "prompt_id", "tokens", "throughput", "speedup", "acceptance_rate", "mean_gamma", "mean_h")
FIGURES = {
    "tokens": "num_tokens", "throughput": "output_tps_per_user", "speedup": "speedup", "acceptance_rate": "draft_acceptance_rate",
    "mean_gamma": "mean_gamma", "mean_h": "mean_entropy",
}  # fmt: skip
NAME = "ablation"
ABLATION = """\
A line per run and prompt, in the columns of the EGAG and NASD ablation, as CSV.

throughput: tokens per second of the prompt, prefill left out. speedup: over the same prompt's baseline. acceptance_rate: of drafted tokens.
mean_gamma: over rounds. mean_h: nats, of the first drafted token's law where the length rule looked at it. A setting that a method does
not have is an empty cell."""


def main(arguments: Sequence[str]) -> None:
    parser = Parser("ablation", ABLATION)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="run or sweep directories")
    print(text(find_runs(parser.parse_args(arguments).directories)), end="")


def wanted(runs: Sequence[Run]) -> bool:
    """Whether these are the jobs of that experiment."""
    return any(run.overrides.get("experiment") == NAME for run in runs)


def text(runs: Sequence[Run]) -> str:
    return as_csv(line for run in runs for line in lines(run))


def lines(run: Run) -> Iterator[dict]:
    """One per record of the run."""
    settings = settings_of(run)
    own = {key: settings.get(f"method.{key}") for key in SETTINGS}
    for record in run.records():
        yield row(record, run.method, own, settings.get("seed"))


def row(record: Record, method: str, settings: Mapping[str, object], seed: int | None) -> dict[str, object]:
    """One line, by column. settings: of the method, by name."""
    figures = summarise_speed([record])
    chosen = {key: settings.get(key) for key in SETTINGS}
    return {"method": method, "seed": seed, "prompt_id": record.id} | chosen | {key: figures.get(name) for key, name in FIGURES.items()}


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


CACHE_COLUMNS = (
    ("cache", "cache"), ("perplexity", "perplexity"), ("mean_nll", "nats per token"), ("accuracy", "next token right"),
    ("tokens", "tokens"), ("kv_bytes", "KV cache"),
)  # fmt: skip


def show(rows: Sequence[dict], title: str, directory: Path) -> None:
    """The table on standard output, and where the files are."""
    console = plain_console()
    console.print(build_table(rows, title))
    console.print(str(directory), style="dim", soft_wrap=True, highlight=False)


def build_table(rows: Sequence[dict], title: str) -> Table:
    """One row per cache, in the order given."""
    table = Table(title=heading(title))
    for _, head in CACHE_COLUMNS:
        table.add_column(head, justify="left" if head == "cache" else "right", no_wrap=True)
    for row in rows:
        right, size = f"{100 * row['accuracy']:.1f} %", f"{row['kv_bytes'] / 2**20:.2f} MiB"
        table.add_row(Text(row["cache"]), f"{row['perplexity']:.3f}", f"{row['mean_nll']:.4f}", right, str(row["tokens"]), size)
    return table
