"""The figures of a set of runs, as PNG and PDF: what a paper shows of a sweep. From rows alone (see rows.py); needs matplotlib.

A figure that the rows say nothing about is left out: no γ was varied, no tree grown, no text scored. Curves of at most MOST runs, the
fastest, are drawn into one picture. Stand-ins and published figures are drawn, and named as such.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from matplotlib import rc_context
from matplotlib.figure import Figure

from specexp.errors import UserError
from specexp.figures.cost import predicted_curve
from specexp.figures.speed import FEWEST, half_width, speedup_interval
from specexp.report.rows import PUBLISHED, SETTING, kind

Row = dict[str, object]
MOST = 10
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933", "#882255", "#44AA99")  # Okabe-Ito, Tol
QUALITY = {"pass_at_1": "pass@1", "rouge1": "ROUGE-1", "accuracy": "accuracy"}


def write_figures(rows: Sequence[Row], directory: Path) -> dict[str, bytes]:
    """Every figure that the rows allow, as NAME.png and NAME.pdf; gives title -> PNG. Raises UserError where it cannot write."""
    pictures = {}
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():  # a dollar in a name is a dollar
        warnings.simplefilter("ignore", UserWarning)  # of signs that the font lacks, and of long names that leave no room
        for name, (title, draw) in FIGURES.items():
            if (figure := draw(_usable(rows))) is not None:
                figure.suptitle(title, fontsize=11)
                pictures[title] = _saved(figure, directory / name)
    return pictures


def _usable(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["state"] in ("finished", PUBLISHED)]


def _saved(figure: Figure, place: Path) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".png").write_bytes(picture.getvalue())
        figure.savefig(place.with_suffix(".pdf"), metadata={"CreationDate": None})  # the same rows, the same file
    except OSError as error:
        raise UserError(f"cannot write {place}.pdf ({error.strerror}); choose another directory with --out DIR.") from error
    return picture.getvalue()


def _figure(panels: int = 1, height: float = 3.8, width: float = 6.4) -> tuple[Figure, list]:
    figure = Figure(figsize=(width * (1 if panels == 1 else 0.8 * panels), height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, list(axes)


def throughput(rows: Sequence[Row]) -> Figure | None:
    """Tokens per second of decoding, a bar per run, with the 95 % interval of the mean over requests."""
    rows = [row for row in rows if row.get("output_tps_per_user")]
    if not rows:
        return None
    fastest = sorted(rows, key=lambda row: (row["method"] == "baseline", row["output_tps_per_user"]))[-3 * MOST :]  # baselines always
    rows = sorted(fastest, key=lambda row: row["output_tps_per_user"])
    figure, [axis] = _figure(height=1.2 + 0.3 * len(rows))
    colours = ["#999999" if row["method"] == "baseline" or row["state"] == PUBLISHED else COLOURS[0] for row in rows]
    axis.barh(range(len(rows)), [row["output_tps_per_user"] for row in rows], color=colours, xerr=[_half(row) for row in rows])
    axis.margins(y=0.01)
    axis.set_yticks(range(len(rows)), [_name(row, rows) for row in rows], fontsize=8)
    axis.set_xlabel("tokens per second, decoding")
    return figure


def _half(row: Row) -> float:
    deviation, count = row.get("output_tps_per_user_std"), row.get("num_examples") or 0
    return half_width(deviation, count) if deviation is not None and count >= FEWEST else 0.0


def gamma(rows: Sequence[Row]) -> Figure | None:
    """Speedup against draft length, measured with its interval, and the curve that acceptance and costs predict."""
    series = _series(rows, f"{SETTING}method.gamma")
    if not series:
        return None
    figure, [axis] = _figure()
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        x, y = [p[0] for p in points], [p[1]["speedup"] for p in points]
        intervals = [speedup_interval(p[1]) or (s, s) for s, p in zip(y, points, strict=True)]
        bars = [(max(0.0, s - low), max(0.0, high - s)) for s, (low, high) in zip(y, intervals, strict=True)]
        axis.errorbar(x, y, yerr=list(zip(*bars, strict=True)), marker="o", capsize=3, color=colour, label=name)
        if curve := _predicted(points):
            axis.plot(list(curve), list(curve.values()), linestyle="--", color=colour, label=f"{name}, predicted")
    axis.axhline(1.0, color="#666666", linewidth=0.8)
    axis.set(xlabel="draft length γ", ylabel="speedup over autoregressive decoding")
    axis.legend(fontsize=8)
    return figure


def _series(rows: Sequence[Row], key: str, figure: str = "speedup") -> dict[str, list[tuple[float, Row]]]:
    """Name -> its rows by the setting's value, ascending, of those kinds of run in which it takes two values or more."""
    found: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        if isinstance(row.get(key), (int, float)) and row.get(figure) is not None:
            found.setdefault(kind(row, rows, key), []).append((row[key], row))
    several = {name: sorted(points, key=lambda point: point[0]) for name, points in found.items() if len({p[0] for p in points}) > 1}
    return dict(list(several.items())[:MOST])


def _predicted(points: Sequence[tuple[float, Row]]) -> dict[int, float]:
    """{} where costs were not measured (on devices whose calls return early)."""
    known = [(int(x), row) for x, row in points if row.get("verify_ratio_v") and row.get("cost_ratio_c") and row.get("alpha")]
    if len(known) < 2:
        return {}
    alpha, cost = (median(row[key] for _, row in known) for key in ("alpha", "cost_ratio_c"))
    return predicted_curve(alpha, cost, {x: row["verify_ratio_v"] for x, row in known})


def cache_length(rows: Sequence[Row]) -> Figure | None:
    """A streaming cache's length against its memory and against speed."""
    key = f"{SETTING}cache.max_length"
    series = _series(rows, key, "kv_bytes_target")
    if not series:
        return None
    figure, (memory, speed) = _figure(2)
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        x = [p[0] for p in points]
        memory.plot(x, [p[1]["kv_bytes_target"] / 2**20 for p in points], marker="o", color=colour, label=name)
        speed.plot(x, [p[1].get("output_tps_per_user") for p in points], marker="o", color=colour, label=name)
    memory.set(xlabel="cache length, tokens", ylabel="KV cache of the target, MiB")
    speed.set(xlabel="cache length, tokens", ylabel="tokens per second, decoding")
    memory.legend(fontsize=8)
    return figure


def acceptance(rows: Sequence[Row]) -> Figure | None:
    """P(token k accepted | those before it were), by position (in trees: depth)."""
    curves = [(_name(row, rows), _rates(row, "conditional_acceptance_rate_")) for row in _drafting(rows)]
    if not curves:
        return None
    figure, [axis] = _figure()
    for colour, (name, rates) in zip(COLOURS, curves, strict=False):
        axis.plot(range(1, len(rates) + 1), rates, marker="o", markersize=3, color=colour, label=name)
    axis.set(xlabel="position k in the draft", ylabel="conditional acceptance rate", ylim=(0, 1.02))
    axis.legend(fontsize=7)
    return figure


def histogram(rows: Sequence[Row]) -> Figure | None:
    """How many drafted tokens a step kept."""
    joints = [(_name(row, rows), [1.0, *_rates(row, "joint_acceptance_rate_"), 0.0]) for row in _drafting(rows)]
    if not joints:
        return None
    figure, [axis] = _figure()
    for colour, (name, joint) in zip(COLOURS, joints, strict=False):
        shares = [here - after for here, after in pairwise(joint)]
        axis.step(range(len(shares)), shares, where="mid", color=colour, label=name)
    axis.set(xlabel="accepted tokens of a step", ylabel="share of the steps", ylim=(0, None))
    axis.legend(fontsize=7)
    return figure


def _drafting(rows: Sequence[Row]) -> list[Row]:
    drafting = [row for row in rows if row.get("conditional_acceptance_rate_1") is not None and row["method"] != "baseline"]
    return sorted(drafting, key=lambda row: -(row.get("speedup") or 0))[:MOST]


def _rates(row: Row, prefix: str) -> list[float]:
    rates = []
    while (rate := row.get(f"{prefix}{len(rates) + 1}")) is not None:
        rates.append(rate)
    return rates


def pareto(rows: Sequence[Row]) -> Figure | None:
    """Quality against speed; the line joins what nothing else beats in both."""
    key = next((key for key in QUALITY if any(row.get(key) is not None for row in rows)), None)
    points = [(row["speedup"], row[key], row) for row in rows if key and row.get("speedup") and row.get(key) is not None]
    if len(points) < 2:
        return None
    figure, [axis] = _figure(height=4.4)
    front = sorted(p for p in {point[:2] for point in points} if not any(_beats(other, p) for other in points))
    axis.plot([p[0] for p in front], [p[1] for p in front], color="#999999", linewidth=1, zorder=1)
    for method, colour in zip(dict.fromkeys(str(p[2]["method"]) for p in points), COLOURS * len(points), strict=False):
        mine = [p for p in points if p[2]["method"] == method]
        axis.scatter([p[0] for p in mine], [p[1] for p in mine], color=colour, label=method, zorder=2)
    axis.set(xlabel="speedup over autoregressive decoding", ylabel=QUALITY[key])
    axis.legend(fontsize=7)
    return figure


def _beats(one: Sequence, other: Sequence) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and (one[0], one[1]) != (other[0], other[1])


def trees(rows: Sequence[Row]) -> Figure | None:
    """The best speedup over depth and branching, a map for each kind of run."""
    maps: dict[str, dict[tuple, float]] = {}
    for row in rows:
        depth, width = row.get(f"{SETTING}method.depth"), row.get(f"{SETTING}method.branching")
        if isinstance(depth, int) and isinstance(width, int) and row.get("speedup") is not None:
            threshold = row.get(f"{SETTING}method.threshold")
            name = kind(row, rows, "depth", "branching", "threshold")
            cell = maps.setdefault(name if threshold is None else f"{name}, threshold {threshold}", {})
            cell[depth, width] = max(row["speedup"], cell.get((depth, width), 0.0))
    maps = {name: cells for name, cells in maps.items() if len(cells) > 1}
    if not maps:
        return None
    figure, axes = _figure(len(maps), height=3.4, width=4.4)
    top = max(value for cells in maps.values() for value in cells.values())
    for axis, (name, cells) in zip(axes, sorted(maps.items()), strict=True):
        _heatmap(axis, cells, top)
        axis.set(xlabel="branching", ylabel="depth")
        axis.set_title(name, fontsize=9)
    return figure


def _heatmap(axis, cells: dict[tuple, float], top: float) -> None:
    depths, widths = (sorted({cell[part] for cell in cells}) for part in (0, 1))
    values = [[cells.get((depth, width), float("nan")) for width in widths] for depth in depths]
    axis.imshow(values, vmin=0, vmax=top, cmap="viridis", aspect="auto", origin="lower")
    axis.set_xticks(range(len(widths)), widths)
    axis.set_yticks(range(len(depths)), depths)
    axis.grid(False)
    for (depth, width), value in cells.items():
        colour = "white" if value < 0.6 * top else "black"
        axis.text(widths.index(width), depths.index(depth), f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)


def _name(row: Row, rows: Sequence[Row]) -> str:
    """The row's label, and pair and data where the rows have several."""
    name = kind(row, rows)
    return f"{name} (stand-ins)" if row.get("weights") == "standin" else name


FIGURES: dict[str, tuple[str, Callable[[Sequence[Row]], Figure | None]]] = {
    "throughput": ("Throughput", throughput),
    "gamma": ("Speedup against draft length", gamma),
    "cache_length": ("Cache length, memory and speed", cache_length),
    "acceptance": ("Acceptance by position", acceptance),
    "histogram": ("Accepted tokens per step", histogram),
    "pareto": ("Quality and speed", pareto),
    "trees": ("Tree shapes", trees),
}
