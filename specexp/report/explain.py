"""Two looks into one run, from its directory alone: `explain` says why it is as fast as it is, `tree` draws one round's token tree.

`python -m specexp.report explain RUN [--json] [--bandwidth GB/S]` shows where a round's time goes, what the acceptance and the costs
allow, and what other draft lengths would have gained. It uses the records and the cost curve in environment.json; what a missing curve
leaves unknown is said in a sentence.

`python -m specexp.report tree RUN [--example ID]` draws the first round of an example that drafted a tree. Accepted nodes are green and
marked with a star, the others dim, and after the accepted path stands the token that the target added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from specexp.errors import UserError
from specexp.figures.acceptance import depth
from specexp.figures.cost import CostCurve, bandwidth_utilisation, bound_figures, curve_of, phases
from specexp.figures.record import Record
from specexp.figures.speed import speedup_interval, summarise_speed, why_no_interval
from specexp.report.runs import Parser
from specexp.report.table import heading, plain_console
from specexp.tracking.records import read_environment, read_records, to_json

SPEEDUPS = ("speedup", "speedup_low", "speedup_high", "predicted_speedup", "efficiency", "tpot", "baseline_tpot")
NO_CURVE = (
    "No cost curve (an older run, cost_curve=false, warmup=0, or another engine's loop): what other draft lengths would have gained, "
    "and the bandwidth used, is not known."
)
NO_ROUNDS = "This method does not decode in rounds of drafting and one target pass: only its speed is known."
NO_PHASES = "Neither the records nor a cost curve hold the time inside the models: where a round's time goes is not known."
NO_DRAFTS = "Nothing was drafted: there is no draft length to choose."
NO_BASELINE = "The run has no eager baseline: there is no speedup to explain."
ROUND = (
    ("draft_ms", "drafting {drafted} tokens"), ("target_ms", "the target's pass over {width} tokens"),
    ("host_ms", "host: verifying, the loop"),
    ("round_ms", "all of it (mean of {rounds} rounds)"),
)  # fmt: skip
SPEEDUP = (
    ("speedup", "measured"), ("predicted_speedup", "the costs allow, the host left out"), ("ceiling", "ceiling"),
    ("modelled_speedup", "this run, by the cost curve"), ("best_gamma_speedup", "best fixed draft length"),
    ("oracle_speedup", "oracle draft lengths"),
)  # fmt: skip
EFFICIENCY, BANDWIDTH = "efficiency", "memory bandwidth used by that of 1"
LABELS = (
    *((key, label.format(drafted="N", width="N + 1", rounds="R")) for key, label in ROUND), *SPEEDUP, ("efficiency", EFFICIENCY),
    ("curve", "over N tokens"), ("curve", "a token of NAME"), ("mbu", BANDWIDTH),
)  # fmt: skip  # of the table's rows, by the key that each shows
RECKONED = "Drafting and target pass are reckoned from the cost curve; what it gets wrong shows as the host's time."


def explained(records: Sequence[Record], curve: CostCurve | None, bandwidth: float | None = None) -> dict[str, object]:
    """Flat but for `curve`, as recorded, and `missing`, a sentence for everything that is not known; figures are None there.

    `ceiling` = the tokens of a round: the speedup if drafting and the host took nothing and a wide pass as long as a narrow one.
    bandwidth: bytes per second, in the place of the curve's own.
    """
    sides, figures = [record.method for record in records], summarise_speed(records)
    rounds, spent = [counts for side in sides for counts in side.timed_rounds], phases(sides, curve)
    bounds = bound_figures(records, curve)
    return {
        **{key: figures.get(key) for key in SPEEDUPS},
        "rounds": len(rounds),
        "drafted_per_round": sum(counts[0] for counts in rounds) / len(rounds) if rounds else None,
        "longest_draft": max(map(depth, rounds), default=0),
        "round_ms": spent and 1000 * spent.round,
        "draft_ms": spent and 1000 * spent.draft,
        "target_ms": spent and 1000 * spent.target,
        "host_ms": spent and 1000 * spent.host,
        "phases_from": spent and spent.source,
        "ceiling": figures["tokens_per_emission"],
        **bounds,
        "mbu": bandwidth_utilisation(curve, bandwidth),
        "curve": curve and curve.record(),
        "missing": list(_missing(figures, rounds, spent, curve)),
    }


def _missing(figures: Mapping, rounds: Sequence, spent: object, curve: CostCurve | None) -> Iterator[str]:
    if figures.get("baseline_tpot") is None:
        yield NO_BASELINE
    elif reason := why_no_interval(figures):
        yield reason
    if not rounds:
        yield NO_ROUNDS
    elif spent is None:
        yield NO_PHASES
    if curve is None:
        yield NO_CURVE
    elif rounds and not figures["num_spec_steps"]:
        yield NO_DRAFTS


def build_table(figures: Mapping, title: str) -> Table:
    """One row for everything that is known, in sections; fits 80 columns."""
    table = Table(title=heading(title), show_header=False)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name, rows in (("a round", _round(figures)), ("speedup", _speedup(figures)), ("the target's pass", _passes(figures))):
        found = list(rows)
        for cells in ([(Text(name, style="bold"), "", "")] if found else []) + found:
            table.add_row(*cells)
        table.add_section()
    return table


def _round(figures: Mapping) -> Iterator[tuple[str, str, str]]:
    if figures["round_ms"] is None:
        return
    drafted, rounds = figures["drafted_per_round"], figures["rounds"]
    for key, label in ROUND:
        words = label.format(drafted=f"{drafted:.2f}", width=f"{1 + drafted:.2f}", rounds=rounds)
        yield f"  {words}", f"{figures[key]:.3f} ms", f"{100 * figures[key] / figures['round_ms']:.1f} %"


def _speedup(figures: Mapping) -> Iterator[tuple[str, str, str]]:
    interval = "" if (found := speedup_interval(figures)) is None else "{:.2f} to {:.2f}".format(*found)
    lengths = "" if figures["best_gamma"] is None else "no draft" if figures["best_gamma"] == 0 else f"gamma {figures['best_gamma']}"
    if figures["best_gamma"] is not None and figures["best_gamma"] > figures["longest_draft"]:
        lengths += ", never tried"
    kept = f"{figures['oracle_open_rounds']} drafts kept whole" if figures["oracle_open_rounds"] else ""
    notes = {"speedup": interval, "ceiling": "tokens per round", "best_gamma_speedup": lengths, "oracle_speedup": kept}
    for key, label in SPEEDUP:
        if figures[key] is not None:
            yield f"  {label}", f"{figures[key]:.2f}x", notes.get(key, "")
    if figures["efficiency"] is not None:
        yield f"  {EFFICIENCY}", f"{100 * figures['efficiency']:.1f} %", "measured / allowed"


def _passes(figures: Mapping) -> Iterator[tuple[str, str, str]]:
    curve = figures["curve"]
    if curve is None:
        return
    for width, seconds in zip(curve["widths"], curve["target_seconds"], strict=True):
        yield f"  over {width} token{'s' * (width > 1)}", f"{1000 * seconds:.3f} ms", f"{seconds / curve['target_seconds'][0]:.2f}x"
    for name, seconds in curve["draft_seconds"].items():
        if seconds is not None:
            yield f"  a token of {name}", f"{1000 * seconds:.3f} ms", f"{seconds / curve['target_seconds'][0]:.2f}x"
    if figures["mbu"] is not None:
        yield f"  {BANDWIDTH}", "", f"{100 * figures['mbu']:.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser("explain", __doc__)
    parser.add_argument("directory", type=Path, help="a run directory")
    parser.add_argument("--json", action="store_true", help="figures for a machine")
    parser.add_argument("--bandwidth", type=float, help="the memory's, in GB/s, where it was not measured")
    options = parser.parse_args(arguments)
    if options.bandwidth is not None and not options.bandwidth > 0:
        raise UserError(f"--bandwidth {options.bandwidth:g} is no bandwidth; give GB/s above 0.")
    records = read_records(options.directory)
    if not records:
        raise UserError(f"{options.directory} holds no records yet; wait for its first example.")
    curve = curve_of(read_environment(options.directory))
    figures = explained(records, curve, options.bandwidth and 1e9 * options.bandwidth)
    if options.json:
        print(to_json(figures, indent=2))
    else:
        _show(figures, options.directory)


def _show(figures: Mapping, directory: Path) -> None:
    console = plain_console()
    console.print(build_table(figures, directory.resolve().name))
    for sentence in (*figures["missing"], *([RECKONED] if figures["phases_from"] == "curve" else [])):
        console.print(Text(sentence))


ROOT = -1


def drawn(tree: Mapping, title: str) -> Tree:
    """tree: `parents` (-1 is the context), `path` (kept nodes), `texts` of the `nodes` and of the target's `own` token after the path."""
    kept, branches = set(tree["path"]), {ROOT: Tree(Text(title), guide_style="dim")}
    for node, (text, parent) in enumerate(zip(tree["texts"]["nodes"], tree["parents"], strict=True)):
        label = Text(f"{text!r}{' *' if node in kept else ''}", style="green" if node in kept else "dim")
        branches[node] = branches[parent].add(label)
    for text in tree["texts"]["own"]:
        branches[tree["path"][-1] if tree["path"] else ROOT].add(Text(f"{text!r} the target's own", style="blue"))
    return branches[ROOT]


def find(directory: Path, example: str | None) -> tuple[str, Mapping]:
    """(example, its tree): of the example that was asked for, or of the first that has one. Raises UserError."""
    records = read_records(directory)
    trees = {record.id: record.method.tree for record in records if record.method.tree}
    if not trees:
        raise UserError(f"{directory} holds no token tree; run a method that drafts trees (method=tree).")
    if example is not None and example not in trees:
        raise UserError(f"{directory} holds no tree of {example}; choose one of {', '.join(list(trees)[:5])}.")
    name = example or next(iter(trees))
    return name, trees[name]


def show_tree(arguments: list[str]) -> None:
    """One round's token tree on the terminal. Nodes on the kept path are green, the others dim."""
    parser = Parser("tree", show_tree.__doc__)
    parser.add_argument("directory", type=Path, help="a run directory")
    parser.add_argument("--example", help="the example's id; the first with a tree by default")
    options = parser.parse_args(arguments)
    name, tree = find(options.directory, options.example)
    facts = f"{name}: {len(tree['nodes'])} nodes, {len(tree['path'])} accepted"
    plain_console().print(drawn(tree, facts))
