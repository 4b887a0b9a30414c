"""`specexp perplexity`: how well a model predicts a given text, token by token, when its cache is full, a window or a sink.

This module reads the command line and checks the configuration; the computation is in experiment/perplexity.py.
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from specexp.cli.jobs import attempted, configured, job_directory, launch
from specexp.errors import UserError

MANUAL = """\
Measures how well a model predicts a given text with several caches: perplexity, next-token accuracy and memory of each.
A smaller cache is not always worse: which one predicts better depends on model and text.

specexp perplexity                                     the small model that ships with the project, on the project's own articles
specexp perplexity model=DIR_OR_HUB_ID text.path=FILE  your model and your text (of a .jsonl file the field text.key of every line)
specexp perplexity model=EleutherAI/pythia-410m text=wikitext2 max_tokens=2048
specexp perplexity -m max_length=128,256,512           a sweep over the length of the window cache and of the sink cache

Settings: model_pair, model, text (file, wikitext2, pg19), max_length, max_tokens, dtype, device, threads, caches.sink.sinks=8.
One more cache: +cache@caches.long=sink caches.long.max_length=1024. One cache less: ~caches.full
--cfg job shows the whole configuration. The results are written to perplexity.json and perplexity.csv in hydra.run.dir=DIR.
"""


@configured("perplexity")
def main(config: DictConfig) -> None:
    def work(build: Callable) -> None:
        check(config)
        from specexp.experiment.perplexity import run  # loads torch, which a wrong configuration need not wait for

        run(config, job_directory(), build)

    attempted(work, "interrupted; nothing was written.")


def check(config: DictConfig) -> None:
    """Checks all that can be wrong with the configuration as such. The pair keeps its target only, which `model` may name."""
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
