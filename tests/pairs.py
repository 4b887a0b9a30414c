"""The names of the model pairs under conf/."""

from pathlib import Path

PAIRS = Path(__file__).parents[1] / "conf" / "model_pair"

PAIR_NAMES = sorted(file.relative_to(PAIRS).with_suffix("").as_posix() for file in PAIRS.rglob("*.yaml") if not file.name.startswith("_"))
