"""Everything that is claimed of a machine, measured in one go and written as one page.

`python tests/benchmarks/machine.py DIR [--pairs NAME,...] [--tokens 20000] [OVERRIDE...]`; on a CUDA machine the overrides are best left
out: stand-ins of published sizes in bfloat16, with full and static caches. On a CPU, to try it:
`python tests/benchmarks/machine.py DIR --pairs tiny --tokens 200 dataset.limit=2 max_new_tokens=24 dtype=float32`

DIR/machine.md: the sweep's table (speedups over autoregressive decoding, over transformers' generate and over assisted generation; a captured
baseline joins on CUDA), where a round's time goes and the bandwidth reached for each pair and cache, divergences in 16 bits, identity in float32.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

CARD = ("model_pair.weights=standin", "dtype=bfloat16", "dataset.limit=4", "max_new_tokens=64")
FIGURES = ("speedup", "speedup_low", "speedup_vs_generate", "speedup_vs_assisted", "speedup_vs_captured", "efficiency", "mbu", "equal_texts")


def run(*arguments):
    """Its output; what goes wrong is printed and does not end the others."""
    print("$ python", *arguments, file=sys.stderr, flush=True)
    began = perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    print(done.stderr[-2000:] if done.returncode else f"  {perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr.strip().splitlines()[-1:]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pairs", default="llama13b_7b,llama7b_160m,pythia_2b8_70m")
    parser.add_argument("--tokens", type=int, default=20_000)
    options, overrides = parser.parse_known_args()
    began, place, card = perf_counter(), options.directory, overrides or list(CARD)
    sweep = [f"hydra.sweep.dir={place / 'bench'}", f"model_pair={options.pairs}", "method=speculative,sequoia", "cache=full,static"]
    run("-m", "specexp", "-m", "experiment=bench", *sweep, *card)
    files = sorted((place / "bench").rglob("summary.json"))
    known = [key for key in FIGURES if any(json.loads(file.read_text()).get(key) is not None for file in files)]
    columns = ",".join(["label", "model_pair", "cache", *known])  # a baseline that did not join has no column
    parts = [f"# {' '.join(card)}", run("-m", "specexp.report", str(place / "bench"), "--columns", columns)]
    for job in [file.parent for file in files if "method=speculative" in str(file.parent)]:
        parts += [f"## {job.name}", run("-m", "specexp.report", "explain", str(job))]
    divergence = str(Path(__file__).with_name("divergence.py"))
    pair = options.pairs.split(",")[min(1, options.pairs.count(","))]
    parts += ["## 16 bits", run(divergence, "--tokens", str(options.tokens), f"model_pair={pair}", "cache=static", *card)]
    run("-m", "specexp", f"hydra.run.dir={place / 'identity'}", "model_pair=tiny", "dtype=float32", "cache=static", "tracker=none", "dataset.limit=16")
    summary = place / "identity" / "summary.json"
    equal = json.loads(summary.read_text())["equal_texts"] if summary.is_file() else None
    parts += ["## float32", f"greedy texts of the tiny pair that equal the baseline's: {equal}"]
    place.joinpath("machine.md").write_text("\n\n".join([*parts, f"{perf_counter() - began:.0f} s in all"]) + "\n", encoding="utf-8")
    print(place / "machine.md")


if __name__ == "__main__":
    main()
