"""What a run needs of its model pair: models that no side uses are taken out of the configuration, so that they are neither asked for nor
loaded. It decides by what the functions of the methods ask for, and loads nothing.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from specexp.cli.plugins import conf_directory, options, read_mapping
from specexp.errors import UserError
from specexp.experiment.supply import asked, decodes_here


def fit_pair(config: DictConfig) -> None:
    """Takes out what no side uses. UserError for a method that is left without the draft model that it asks for."""
    if decodes_here(config):
        _fit_standins(config)
        _drop_unused_drafts(config)
    else:
        _drop_pair(config)


def _drop_pair(config: DictConfig) -> None:
    """A server brings its models with their template, and its baseline is another server."""
    if config.chat_template is not None:
        raise UserError(f"chat_template={config.chat_template} would be ignored, as the server applies its model's own; leave it out.")
    if config.chat_template_args is not None:
        raise UserError(
            f"chat_template_args={config.chat_template_args} would be ignored, as the server applies the template; servers that take such "
            "arguments take them in the request: method.body={chat_template_kwargs: {NAME: VALUE}}."
        )
    config.model_pair = config.dtype = config.device = None
    config.baselines, config.captured, config.captured_cache = {}, None, None


def _fit_standins(config: DictConfig) -> None:
    """Stand-ins write the tiny pair's ids, which its tables fit, in states of another width than its heads read. Its tokenizer has no chat
    template."""
    if config.model_pair.weights == "standin":
        config.model_pair.tables, config.model_pair.medusa, config.model_pair.prompt_format = "tiny", None, "raw"


def name_pair(config: DictConfig) -> None:
    """A pair without a name is called like its target: a Hub id as it is, a directory by its own name."""
    if config.model_pair is not None and config.model_pair.name is None:
        place = Path(config.model_pair.target.name).expanduser()
        config.model_pair.name = place.resolve().name if place.is_dir() else config.model_pair.target.name


def _drop_unused_drafts(config: DictConfig) -> None:
    """Draft models that no side asks for are neither required nor loaded; a cascade without several drafts has the one."""
    wanted = frozenset().union(*(asked(node) for node in (config.method, *config.baselines.values())))
    if "drafts" not in wanted:
        config.model_pair.drafts = {}
    if "draft" not in wanted and not ("drafts" in wanted and not config.model_pair.drafts):
        config.model_pair.draft = None
    if wanted & {"draft", "drafts"} and not config.model_pair.drafts and config.model_pair.draft is None:
        raise UserError(
            "model_pair.draft=null leaves the method without the draft model that it asks for; give model_pair.draft.name=DIR"
            f"{without_draft()}."
        )


def without_draft() -> str:
    """The end of a sentence: the project's methods that ask for the target alone."""
    nodes = {name: read_mapping(Path(conf_directory()) / "method" / f"{name}.yaml") for name in options("method", [Path(conf_directory())])}
    found = [name for name, node in nodes.items() if asked(node) == {"target"}]
    return f", or choose a method that needs no draft model (method={', '.join(found)})"
