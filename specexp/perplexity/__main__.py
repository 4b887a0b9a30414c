"""`python -m specexp.perplexity`: teacher-forced perplexity and next-token accuracy of a text under full, window and sink cache.

Wires rooms together; what is computed and checked stands in experiment/perplexity.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from specexp.cli.jobs import attempted, launch
from specexp.cli.plugins import conf_directory
from specexp.errors import UserError

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
        from specexp.experiment.perplexity import run

        check(config)
        run(config, Path(HydraConfig.get().runtime.output_dir), build)

    attempted(work, "interrupted; nothing was written.")


def check(config: DictConfig) -> None:
    """All that can be wrong with the configuration as such. The pair keeps its target only, which `model` may name."""
    from specexp.cli.check import check_signatures, shown

    for key, least in (("max_tokens", 2), ("threads", 1)):
        value = config[key]
        if (type(value) is not int or value < least) and not (key == "threads" and value is None):
            raise UserError(f"{key}={shown(value)} does not fit; give a whole number, {least} or more.")
    config.model_pair.draft, config.model_pair.drafts = None, {}
    if config.model is not None:
        config.model_pair.target.name, config.model_pair.target.revision, config.model_pair.tokenizer = str(config.model), None, None
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"not set: {', '.join(missing)}; give model=NAME, a directory or a Hub id.")
    check_signatures(config)


def cli() -> None:
    launch(main, lambda: MANUAL, "perplexity")


if __name__ == "__main__":
    cli()
