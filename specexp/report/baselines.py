"""The rows of baselines in a table of runs: which runs measured the same baseline, and the mean over those.

Every run measures its baseline anew, interleaved with its method. Two of these are the same only if all facts that a baseline depends on
are equal: the target model, the prompts, sampling, cache, lengths and machine, as the run's own configuration and environment say. Names
prove nothing: a pair that keeps its name may have been given another target, and a directory or a file other weights or prompts. Computes
nothing but means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean

from specexp.report.runs import Run
from specexp.tracking.records import read_environment

STEADY = 1.05  # how far apart the seconds per token of equal baselines may be
SETTING = "setting "  # before a setting's key in a row, since a figure may have the same name
# Of a configuration: what belongs to the method, or changes neither texts nor times of the baseline. Whatever else there is counts.
NOT_THE_BASELINES = {"runners", "method", "tracker", "profile", "warmup", "cost_curve", "repeats", "published", "captured", "sandbox"}
NOT_THE_TARGETS = {"draft", "drafts", "costs", "medusa", "tables"}  # of a pair
GROUP = ("model_pair", "dataset", "weights")  # by which a table is ordered: its rows of baselines are one for each at least
IN_COLUMNS = {"max_new_tokens", "cache._target_", "model_pair.weights", "model_pair.name", "dataset.name"}  # and so not in a label

Row = Mapping[str, object]


def facts_of(run: Run) -> dict[str, object]:
    """Dotted key -> value of all that the run's baseline depends on. Of a run whose configuration is gone nothing is known, so that its own
    name stands for it."""
    if not run.config:
        return {"run": run.name}
    config = {key: value for key, value in run.config.items() if key not in NOT_THE_BASELINES}
    if isinstance(pair := config.get("model_pair"), dict):
        config["model_pair"] = {key: value for key, value in pair.items() if key not in NOT_THE_TARGETS}
    config["baselines"] = {key: value for key, value in (config.get("baselines") or {}).items() if key == "eager"}  # the row's own one
    facts = dict(_flat(config, ""))
    if facts.get("sampling.temperature") == 0:  # a greedy text is the same with every seed
        facts.pop("seed", None)
    return facts | {"summary.num_examples": run.summary.get("num_examples")} | dict(_flat(_machine(run), "machine"))


def _machine(run: Run) -> dict[str, object]:
    """What environment.json says of where the baseline ran; {} of a run without one."""
    environment = read_environment(run.directory)
    found = {key: environment.get(key) for key in ("device", "dtype", "attention", "threads", "weights_digest", "prompts_digest")}
    found["cpu"] = (environment.get("cpu") or {}).get("model")
    found["cards"] = [card["name"] if isinstance(card, dict) else card for card in environment.get("cards") or ()]
    found["endpoint"] = (environment.get("endpoints") or {}).get("baseline")
    return {key: value for key, value in found.items() if value}


def _flat(node: Mapping[str, object], path: str) -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            yield from _flat(value, name)
        else:
            yield name, tuple(map(str, value)) if isinstance(value, list) else value


def baseline_rows(runs: Sequence[Run], rows: Sequence[Row]) -> list[dict[str, object]]:
    """rows: those of the runs, in the same order."""
    pools: dict[tuple, list[Row]] = {}
    for run, row in zip(runs, rows, strict=True):
        if row["state"] == "finished" and "baseline_tpot" in row:
            known = {key: row.get(key) for key in GROUP}, facts_of(run)
            pools.setdefault(tuple(tuple(sorted(part.items(), key=str)) for part in known), []).append(row)
    by_group: dict[tuple, list[dict]] = {}
    for group, facts in pools:
        by_group.setdefault(group, []).append(dict(facts))
    return [_row(dict(facts), some, _differences(dict(facts), by_group[group])) for (group, facts), some in pools.items()]


def unsteady(runs: Sequence[Run]) -> bool:
    """Whether baselines that are the same by their facts, so that one row is their mean, were measured at different speeds."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        if tpot := run.summary.get("baseline_tpot"):
            seconds.setdefault(str(sorted(facts_of(run).items(), key=str)), []).append(tpot)
    return any(max(each) > STEADY * min(each) for each in seconds.values())


def _differences(facts: Row, others: Sequence[Row]) -> list[str]:
    """`key=value` of the facts in which this baseline differs from the others of its group. Of several facts that separate the same ones,
    it is one that all of them have and that stands high in the configuration."""
    keys = dict.fromkeys(key for other in others for key in other)
    found: dict[tuple, str] = {}
    for key in sorted(keys, key=lambda key: (sum(key not in other for other in others), key.count("."), not key.endswith(".name"))):
        values = [str(other.get(key)) for other in others]
        if len(set(values)) > 1 and key not in IN_COLUMNS:
            found.setdefault(tuple(values.index(value) for value in values), key)
    return [f"{_short(key, keys)}={_text(facts[key])}" for key in found.values() if facts.get(key) is not None]


def _short(key: str, keys: Iterable[str]) -> str:
    """The end of a dotted key that no other key has."""
    parts = key.split(".")
    ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)


def _text(value: object) -> str:
    return (",".join(value) if isinstance(value, tuple) else str(value)).replace(" ", "")


def _row(facts: Row, rows: Sequence[Row], apart: Sequence[str]) -> dict[str, object]:
    """Means over the rows of all figures named `baseline_...`; a standard deviation is that of one run, averaged."""
    names = {key: rows[0].get(key) for key in (*GROUP, "cache", "max_new_tokens")}
    names |= {key: rows[0][key] for key in rows[0] if key.removeprefix(SETTING) in facts and key.startswith(SETTING)}
    keys = dict.fromkeys(key.removeprefix("baseline_") for row in rows for key in row if key.startswith("baseline_"))
    figures = {key: _mean(row.get(f"baseline_{key}") for row in rows) for key in keys}
    label = " ".join(["baseline", *apart, *([f"(mean of {len(rows)} runs)"] if len(rows) > 1 else [])])
    counted = {"num_samples": rows[0].get("num_samples"), "num_examples": rows[0].get("num_examples")}
    return names | {"state": "finished", "label": label, "method": "baseline", "speedup": 1.0} | counted | figures


def _mean(values: Iterable) -> float | None:
    known = [value for value in values if isinstance(value, (int, float))]
    return mean(known) if known else None
