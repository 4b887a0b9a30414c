"""`python -m specexp.perplexity`: teacher-forced perplexity and next-token accuracy of a text under full, window and sink cache.

Wires rooms together; what is computed stands in teacher_forcing.py, what is checked in job.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from specexp.__main__ import attempted, launch
from specexp.configuration import conf_directory

MANUAL = """\
How well a model predicts a text under several caches: perplexity, next-token accuracy, memory. No order between them is promised.

python -m specexp.perplexity                                     the shipped tiny target on the project's own articles
python -m specexp.perplexity model=DIR_OR_HUB_ID text.path=FILE  your model, your text (.jsonl: the field text.key of every line)
python -m specexp.perplexity model=EleutherAI/pythia-410m text=wikitext2 max_tokens=2048
python -m specexp.perplexity -m max_length=128,256,512           a sweep over the length of window and sink cache

Handles: model_pair, model, text (file, wikitext2, pg19), max_length, max_tokens, dtype, device, threads, caches.sink.sinks=8;
one more cache: +cache@caches.long=sink caches.long.max_length=1024; one less: ~caches.full
--cfg job shows the whole configuration; perplexity.json and perplexity.csv go to hydra.run.dir=DIR.
"""


@hydra.main(version_base="1.3", config_path=conf_directory(), config_name="perplexity")
def main(config: DictConfig) -> None:
    def work(build: Callable) -> None:
        from specexp.perplexity.job import run

        run(config, Path(HydraConfig.get().runtime.output_dir), build)

    attempted(work, "interrupted; nothing was written.")


def cli() -> None:
    launch(main, lambda: MANUAL, "perplexity")


if __name__ == "__main__":
    cli()
