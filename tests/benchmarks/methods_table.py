"""Prints finished runs as one markdown table: `python tests/benchmarks/methods_table.py DIR...` (run or sweep directories).

Reads summary.json files alone. Rows are sorted by data set and speedup.
"""

import argparse
import json
from pathlib import Path

HEADER = ("data", "method", "speedup", "95 % interval", "AL", "accepted", "overhead per round", "same tokens", "lossless")


def shown(value, form):
    return "-" if value is None else format(value, form)


def row(summary):
    overhead = summary.get("overhead_ms_per_round")
    return (
        f"{summary['model_pair']}/{summary['dataset']}",
        summary["method"],
        shown(summary["speedup"], ".2f"),
        f"{shown(summary['speedup_low'], '.2f')} to {shown(summary['speedup_high'], '.2f')}",
        shown(summary["mean_acceptance_length"], ".2f"),
        shown(summary["draft_acceptance_rate"], ".0%"),
        "-" if overhead is None else f"{overhead:.2f} ms",
        shown(summary["equal_texts"], ".0%"),
        "yes" if summary["lossless"] else "no",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", type=Path, nargs="+")
    files = [file for directory in parser.parse_args().directories for file in directory.rglob("summary.json")]
    summaries = [json.loads(file.read_text()) for file in files]
    summaries.sort(key=lambda s: (s["model_pair"], s["dataset"], -(s["speedup"] or 0)))
    for cells in (HEADER, ["---"] * len(HEADER), *map(row, summaries)):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
