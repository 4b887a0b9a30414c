"""One evaluation of caches, from a composed configuration to its table and files: check, read the text, predict it under every cache.

Checks come in the order of their cost; nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from specexp.errors import UserError

COLUMNS = ("cache", "perplexity", "mean_nll", "accuracy", "tokens", "kv_bytes", "cache_exact")


def run(config: DictConfig, directory: Path, build: Callable) -> None:
    """Writes perplexity.json and perplexity.csv into `directory`. Raises UserError for what the user can put right."""
    from specexp.job import set_threads
    from specexp.report.perplexity import show

    _check(config)
    pair, text = build(config.model_pair), build(config.text)
    caches = {name: build(node) for name, node in config.caches.items()}
    document = text.read()
    pair.check()
    ids = _ids(pair, document, config.max_tokens)
    _check_lengths(pair, caches, len(ids))
    set_threads(config.threads)
    rows = [_row(name, cache, pair.target, ids) for name, cache in caches.items()]
    names = {"model": pair.target.name, "text": text.name}
    _write(directory, names, rows)
    show(rows, f"{pair.target.name}, {text.name}", directory)


def _check(config: DictConfig) -> None:
    """All that can be wrong with the configuration as such. The pair keeps its target only, which `model` may name."""
    from specexp.signatures import check_signatures, shown

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


def _ids(pair, document: str, max_tokens: int) -> list[int]:
    from specexp.models.loading import load_config

    if load_config(pair.target).is_encoder_decoder:
        raise UserError(f"{pair.target.name} reads a source besides the text it writes; choose a decoder-only model with model=NAME.")
    ids = pair.load_tokenizer()(document, verbose=False)["input_ids"][:max_tokens]
    if len(ids) < 2:
        raise UserError("the text has fewer than two tokens, so there is nothing to predict; choose another with text.path=FILE.")
    return ids


def _check_lengths(pair, caches: dict[str, Callable], tokens: int) -> None:
    for name, cache in caches.items():
        longest = pair.longest_text(cache)
        if longest is not None and tokens > longest:
            raise UserError(
                f"the text has {tokens} tokens and {pair.target.name} has {longest} positions under the cache {name}; "
                f"set max_tokens={longest} or leave that cache out with ~caches.{name}."
            )


def _row(name: str, cache: Callable, target, ids: Sequence[int]) -> dict[str, object]:
    from specexp.models.loading import load_model
    from specexp.perplexity.teacher_forcing import predict

    runner = cache(load_model(target))
    found = predict(runner, ids)
    figures = (found.perplexity, found.mean_nll, found.accuracy, found.tokens, runner.kv_bytes, runner.cache_exact)
    return dict(zip(COLUMNS, (name, *figures), strict=True))


def _write(directory: Path, names: dict[str, str], rows: list[dict[str, object]]) -> None:
    from specexp.tracking.jsonl import to_json, write_whole

    lines = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)]
    write_whole(directory / "perplexity.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
    write_whole(directory / "perplexity.json", to_json(names | {"caches": rows}, indent=2) + "\n")
