"""What `--help` prints: examples, the choices found under conf/, and the handles. Reads file names only, so it answers at once
(Hydra's own help composes the whole configuration and walks its groups many times)."""

from __future__ import annotations

import textwrap
from pathlib import Path

TEMPLATE = """\
specexp: which way of speculating is fastest on my models, data and machine, and does it leave the output alone?

python -m specexp                                            the shipped tiny pair, speculative against autoregressive decoding
python -m specexp method=prompt_lookup dataset=microsum      another method, another dataset
python -m specexp model_pair=llama13b_7b dataset=humaneval   a named pair from the Hub
python -m specexp model_pair=llama7b_160m model_pair.weights=standin   its sizes, without its weights (for speed)
python -m specexp model_pair=custom model_pair.target.name=DIR model_pair.draft.name=DIR
python -m specexp -m method.gamma=1,2,4,8                    a sweep, into multirun/
python -m specexp.chat, python -m specexp.serve              a console, a server (--help of their own)

Groups: choose with group=option
{groups}

Handles: change with key=value
  method.gamma=4  sampling.temperature=0.7  dataset.limit=20  max_new_tokens=128  ignore_eos=true
  samples=10  repeats=3  seed=1  dtype=bfloat16  device=cpu  threads=2  quick=true  sandbox=require

--cfg job              shows the whole configuration
hydra.run.dir=DIR      starts the run in DIR, or goes on with it
--hydra-help           Hydra's own options (multirun, completion, other configuration directories)
"""


def manual(conf: Path) -> str:
    """The text, for the groups and options that lie under `conf`."""
    return TEMPLATE.format(groups="\n".join(_lines(conf)))


def _lines(conf: Path) -> list[str]:
    groups = {folder.relative_to(conf).as_posix(): folder for folder in sorted(conf.rglob("*")) if any(folder.glob("*.yaml"))}
    width = max(map(len, groups)) + 2
    return [_line(name, group, width) for name, group in groups.items()]


def _line(name: str, group: Path, width: int) -> str:
    options = ", ".join(sorted(file.stem for file in group.glob("*.yaml") if not file.stem.startswith("_")))
    return textwrap.fill(options, 118, initial_indent=f"  {name:<{width}}", subsequent_indent=" " * (width + 2))
