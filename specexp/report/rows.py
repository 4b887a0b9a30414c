"""The rows of a table of runs: each run's names, the settings in which the runs differ, and all figures of its summary, flat.

Baselines have rows of their own (see baselines.py). Published figures that an experiment's configuration brings have rows too, and say so.
Computes no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from specexp.report.baselines import GROUP, SETTING, baseline_rows, unsteady
from specexp.report.remarks import remarks
from specexp.report.runs import Run

NOT_SETTINGS = {"name", "decoder", "defaults"}
GROUPS = ("method", "sampling", "cache")  # whose plain keys are settings
TOP = ("max_new_tokens", "ignore_eos", "samples", "repeats", "seed", "dtype", "device", "threads", "quick")
IN_COLUMNS = {"method", "model_pair", "dataset", "experiment"}
SILENT = {"warmup", "dataset.limit", "repeats", "quick"}  # never part of a label

PUBLISHED = "published"

UNLIKE = (
    "A speedup compares a job with its own baseline, which took turns with it. The row of a baseline is the mean of jobs that ran at other "
    "times, and the machine's speed changed between them, so the ratio of two rows is not the speedup."
)


def make_rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """One row per run, baseline and published figure: the fastest of each pair and data set first, what has no speedup last."""
    settings = {run.directory: settings_of(run) for run in runs}
    labels = _labels(runs, settings)
    rows = [_row(run, settings[run.directory], labels[run.directory]) for run in runs]
    rows += [*baseline_rows(runs, rows), *_published(runs)]
    return sorted(rows, key=_order)


def settings_of(run: Run) -> dict[str, object]:
    """Dotted key -> value of a run's handles, and what else its job was given (parts of a method, say)."""
    config = run.config
    found = {f"{group}.{key}": value for group in GROUPS for key, value in (config.get(group) or {}).items() if _is_setting(key, value)}
    found |= {key: config[key] for key in TOP if key in config}
    if config:
        found["cache"] = run.cache
    known = {*found, *IN_COLUMNS, *(GROUPS if config else ())}
    return found | {key: value for key, value in run.overrides.items() if key not in known and not key.startswith(("tracker", "hydra"))}


def differing(runs: Sequence[Run], settings: dict) -> list[str]:
    """The settings that are not the same in all of these runs, those in the way of a table's labels left out. Of a job that got nowhere no
    more is known than what it was given, so it makes no difference."""
    runs = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in runs for key in settings[run.directory])
    return [key for key in keys if key not in SILENT and len({_text(settings[run.directory].get(key)) for run in runs}) > 1]


def _is_setting(key: str, value: object) -> bool:
    return key not in NOT_SETTINGS and not key.startswith("_") and not isinstance(value, dict)


def _labels(runs: Sequence[Run], settings: dict) -> dict[object, str]:
    """Directory -> the method, and what tells this run from the others: of the method's own keys from those of the same method."""
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    own = {name: [key for key in differing(some, settings) if key.startswith("method.")] for name, some in by_method.items()}
    others = [key for key in differing(runs, settings) if not key.startswith("method.")]
    shared = Counter(item for run in runs for item in run.overrides.items())
    labels, all_keys = {}, dict.fromkeys(key for run in runs for key in settings[run.directory])
    short = {key: _endings({_text(settings[run.directory].get(key)) for run in runs}) for key in all_keys}
    for run in runs:
        given = [key for key, value in run.overrides.items() if shared[key, value] < len(runs)]
        keys = [*own[run.method], *others] if run.config else given
        labels[run.directory] = " ".join([run.method, *_pairs(keys, settings[run.directory], short)])
    return labels


def _pairs(keys: Sequence[str], settings: dict, short: Mapping[str, Mapping[str, str]]) -> list[str]:
    shown = [(key, _text(settings[key])) for key in keys if settings.get(key) is not None]
    return [f"{key.rpartition('.')[2] or key}={short.get(key, {}).get(text, text)}" for key, text in shown]


def _endings(texts: Collection[str]) -> dict[str, str]:
    """Each text that is a path -> as many of its last parts as tell it from the others: /models/a/final and /models/b/final are a/final and
    b/final."""
    paths = {text: text.split("/") for text in texts if text.startswith(("/", "./", "../", "~/"))}
    for count in range(1, max(map(len, paths.values()), default=0) + 1):
        endings = {text: "/".join(parts[-count:]) for text, parts in paths.items()}
        if len(set(endings.values())) == len(endings):
            return endings
    return {}


def _text(value: object) -> str:
    return str(value).replace(" ", "")


def _row(run: Run, settings: dict, label: str) -> dict[str, object]:
    names = {key: run.summary.get(key) or _chosen(run, key) for key in ("model_pair", "dataset")}
    fixed = {"cache": settings.get("cache"), "max_new_tokens": run.config.get("max_new_tokens"), "weights": "real"}
    state = {"run": run.name, "state": run.state, "error": run.failure, "label": label, "method": run.method}
    return {**state, **fixed, **names, **{f"{SETTING}{key}": _plain(value) for key, value in settings.items()}, **run.summary}


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, type(None))) else _text(value)


def kind(row: dict[str, object], rows: Sequence[dict], *varied: str) -> str:
    """What a curve or map over the settings `varied` is called: the row's label without these, with pair and data where the rows have
    several. Rows of one kind may be drawn together."""
    names = tuple(f"{key.rpartition('.')[2]}=" for key in varied)
    return ", ".join([" ".join(part for part in str(row["label"]).split() if not part.startswith(names)), *pair_and_data(row, rows)])


def pair_and_data(row: dict[str, object], rows: Sequence[dict]) -> list[str]:
    return [str(row[name]) for name in ("model_pair", "dataset") if name in row and len({other.get(name) for other in rows}) > 1]


def renamed(row: dict[str, object]) -> dict[str, object]:
    """The row for other programs: settings under their own keys, except where a figure has that name."""
    names = {key: key.removeprefix(SETTING) for key in row}
    return {key if name != key and name in row else name: row[key] for key, name in names.items()}


def _chosen(run: Run, group: str) -> str | None:
    return (run.config.get(group) or {}).get("name") or run.overrides.get(group)


def _published(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Each published figure once, however many runs name it."""
    found: dict[str, dict] = {}
    for run in runs:
        table = run.config.get(PUBLISHED) or {}
        for figures in table.get("rows") or []:
            row = {"weights": "real", **figures, "state": PUBLISHED, "run": str(table.get("source"))}
            row["label"] = f"{figures.get('method')} [published]"
            row["output_tps_per_user"] = row.get("output_tps_per_user", row.get("output_tps"))  # nobody else leaves the prefill out
            found.setdefault(str(sorted(row.items(), key=str)), row)
    return list(found.values())


def notes(runs: Sequence[Run]) -> list[str]:
    """What is said below a table: of published figures their source, setup and known faults; what explains and limits the figures of
    finished runs; each failed job with its sentence."""
    found = []
    for run in runs:
        if table := run.config.get(PUBLISHED):
            found.append(f"[published] {table.get('source')}. Setup: {table.get('setup')} Known faults: {table.get('faults')}")
    finished = [run for run in runs if run.finished]
    found += _by_reason(finished, lambda run: [remark.text for remark in remarks(run.summary)])
    found += [UNLIKE] if unsteady(finished) else []
    found += [f"{run.name} failed: {run.failure}" for run in runs if run.failure]
    found += [f"{run.name} is not finished." for run in runs if run.state == "unfinished"]
    return list(dict.fromkeys(found))



def _by_reason(runs: Sequence[Run], reasons: Callable[[Run], Iterable[str | None]]) -> list[str]:
    """Each reason once, with the names of the runs that it holds for, where it does not hold for all."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for reason in filter(None, reasons(run)):
            names.setdefault(reason, []).append(run.name)
    return [reason if len(few) == len(runs) else f"{', '.join(few)}: {reason}" for reason, few in names.items()]


def _order(row: dict) -> tuple:
    """By pair, data and weights; in them by state and speedup."""
    states = ("finished", PUBLISHED, "unfinished", "failed")
    place = tuple(str(row.get(key) or "~") for key in GROUP)
    return (*place, states.index(row["state"]), -(row.get("speedup") or 0.0), row["label"])
