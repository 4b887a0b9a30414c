"""The console's commands: the name of each, its arguments and what it does. Help, completion and the console itself read this one table.

Commands change the session and its settings. They print nothing: a command returns the text that is to be shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from specexp.chat.session import DRAFTER, EGAG, NASD, SPECULATIVE, TARGET, Session, Settings, pairs
from specexp.cli.plugins import conf_folders, options, read_mapping
from specexp.errors import UserError
from specexp.experiment.supply import MODELS, asked
from specexp.report.papers import as_csv, row
from specexp.tracking.records import to_json, write_whole

PROCESSORS = {  # sampling rule -> its arguments, in order
    "greedy": (),
    "multinomial": ("temperature",),
    "topk": ("temperature", "top_k"),
    "nucleus": ("temperature", "top_p"),
    "topknucleus": ("temperature", "top_k", "top_p"),
}
CACHES, STORAGES = tuple(options("cache")), tuple(options("storage"))


class Quit(Exception):
    """The console is to end."""


@dataclass(frozen=True)
class Command:
    """act: (session, arguments) -> the text to show, or None. now: the present value of what it sets, for help. choices: first arguments,
    for completion."""

    name: str
    arguments: str
    does: str
    act: Callable[[Session, Sequence[str]], str | None]
    now: Callable[[Settings], object] = lambda settings: ""
    choices: tuple[str, ...] = ()


def nodes() -> dict[str, dict]:
    """The configurations of all methods by name, those of plugins among them."""
    files = [file for folder in conf_folders() for file in sorted((folder / "method").glob("*.yaml"))]
    return {file.stem: read_mapping(file) for file in files if not file.stem.startswith("_")}


def methods() -> list[str]:
    """The names of the methods that decode here, not on a server."""
    return [name for name, node in nodes().items() if "_target_" in node and asked(node) & MODELS]


def obey(session: Session, line: str) -> str | None:
    """Carry out the command in `line`. UserError for one that is unknown or cannot be carried out."""
    name, *arguments = line.split()
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UserError(f"{name} is no command{f' (did you mean {near[0]}?)' if near else ''}; /help lists them.")
    command = COMMANDS[name]
    if not command.arguments and arguments:
        raise UserError(f"{name} takes no arguments; leave out {' '.join(arguments)}.")
    return command.act(session, arguments)


def _adopt(session: Session, **changes: object) -> None:
    session.adopt(replace(session.settings, **changes))


def _toggle(side: str) -> Callable[[Session, Sequence[str]], str]:
    def act(session: Session, arguments: Sequence[str]) -> str:
        session.adopt(session.settings.toggled(side))
        return f"{side}: {_state(side)(session.settings)}"

    return act


def _state(*sides: str) -> Callable[[Settings], str]:
    return lambda settings: "on" if {*sides} & {*settings.enabled} else "off"


def _shown(session: Session, arguments: Sequence[str]) -> None:
    """For commands whose effect is only on the screen, which the view takes care of."""


def _switch(name: str) -> Callable[[Session, Sequence[str]], str]:
    """The act of a command that switches a setting of the console on or off."""

    def act(session: Session, arguments: Sequence[str]) -> str:
        _adopt(session, **{name: not getattr(session.settings, name)})
        return f"{name}: {_on(name)(session.settings)}"

    return act


def _on(name: str) -> Callable[[Settings], str]:
    return lambda settings: "on" if getattr(settings, name) else "off"


def _number(usage: str, arguments: Sequence[str], least: int = 1) -> int:
    word = " ".join(arguments)
    if not word.isdecimal() or int(word) < least:
        raise UserError(f"{usage} {word} does not fit; give one whole number, {least} or more.".replace("  ", " "))
    return int(word)


def _quit(session: Session, arguments: Sequence[str]) -> None:
    raise Quit


def _speculative(session: Session, arguments: Sequence[str]) -> str:
    side = EGAG if EGAG in session.settings.enabled else SPECULATIVE
    return _toggle(side)(session, arguments)


def _egag(session: Session, arguments: Sequence[str]) -> str:
    back = EGAG in session.settings.enabled
    session.adopt(session.settings.exchanged(*((EGAG, SPECULATIVE) if back else (SPECULATIVE, EGAG))))
    return f"egag: {_state(EGAG)(session.settings)}"


def _length(session: Session, arguments: Sequence[str]) -> str:
    _adopt(session, length=_number("/length", arguments))
    return f"length: {session.settings.length} tokens"


def _gamma(session: Session, arguments: Sequence[str]) -> str:
    _adopt(session, gamma=_number("/gamma", arguments))
    return f"gamma: {session.settings.gamma}, for every method that has a gamma and was given neither its own nor a policy"


def _seed(session: Session, arguments: Sequence[str]) -> str:
    _adopt(session, seed=_number("/seed", arguments, 0))
    return f"seed: {session.settings.seed}; every method starts from it anew with every prompt"


def _cache(session: Session, arguments: Sequence[str]) -> str:
    chosen = " ".join(arguments) or ("none" if _cache_name(session.settings) != "none" else "full")
    _check_choice("/cache", chosen, CACHES)
    _adopt(session, cache=(f"cache={chosen}",))
    return f"cache: {chosen}"


def _cache_name(settings: Settings) -> str:
    return dict(pairs(settings.cache)).get("cache", "full")


def _processor(session: Session, arguments: Sequence[str]) -> str:
    name, *values = arguments or ("",)
    _check_choice("/processor", name, tuple(PROCESSORS))
    names = PROCESSORS[name]
    if len(values) > len(names):
        raise UserError(f"/processor {name} takes {', '.join(names) or 'no arguments'}; leave out {' '.join(values[len(names) :])}.")
    _adopt(session, sampling=(f"sampling={name}", *(f"sampling.{key}={value}" for key, value in zip(names, values, strict=False))))
    return f"processor: {_processor_now(session.settings)}"


def _processor_now(settings: Settings) -> str:
    given = pairs(settings.sampling)
    return " ".join([given.pop("sampling", "greedy"), *(f"{key.removeprefix('sampling.')}={value}" for key, value in given.items())])


def _check_choice(usage: str, name: str, options: Sequence[str]) -> None:
    if name not in options:
        raise UserError(f"{usage} {name} does not exist; choose one of {', '.join(options)}.".replace("  ", " "))


def _give(side: str, key: str) -> Callable[[Session, Sequence[str]], str]:
    """The act of a command that gives one setting to one method, which keeps it while it is not enabled, too."""

    def act(session: Session, arguments: Sequence[str]) -> str:
        if len(arguments) != 1:
            raise UserError(f"{side}'s {key} is one value; give one.")
        session.adopt(session.settings.with_given(side, {key: arguments[0]}))
        return f"{side}: {key}={arguments[0]}"

    return act


def _given(side: str, key: str) -> Callable[[Settings], str]:
    return lambda settings: settings.given.get(side, {}).get(key, "")


def _setting(side: str, key: str) -> tuple[Callable[[Session, Sequence[str]], str], Callable[[Settings], str]]:
    return _give(side, key), _given(side, key)


def _storage(session: Session, arguments: Sequence[str]) -> str:
    name, *order = arguments or ("",)
    _check_choice("/set_ngramstorage", name, STORAGES)
    chosen = {"storage@storage": name} | ({"order": str(_number("/set_ngramstorage " + name, order, 2))} if order else {})
    session.adopt(session.settings.with_given(NASD, chosen))
    return f"n-gram storage: {name}" + (f", order {order[0]}" if order else "")


def _stored(settings: Settings) -> str:
    return f"{_given(NASD, 'storage@storage')(settings)} {_given(NASD, 'order')(settings)}".strip()


def _reset(session: Session, arguments: Sequence[str]) -> str:
    return _give(NASD, "reset_in_between")(session, ["true" if _resets(session.settings) == "false" else "false"])


def _resets(settings: Settings) -> str:
    return _given(NASD, "reset_in_between")(settings) or "true"


def _method(session: Session, arguments: Sequence[str]) -> str:
    if not arguments:
        raise UserError(f"/method NAME [KEY=VALUE ...]: NAME is one of {', '.join(methods())}.")
    name, *words = arguments
    _check_choice("/method", name, methods())
    if odd := [word for word in words if "=" not in word]:
        raise UserError(f"{odd[0]} is not KEY=VALUE; give settings as in method={name} on the command line, without the leading method.")
    side = TARGET if name == "autoregressive" else name
    settings = session.settings.with_given(side, pairs(words)) if words else session.settings
    session.adopt(settings if words and side in settings.enabled else settings.toggled(side))
    return f"{side}: {_state(side)(session.settings)}" + (f" with {' '.join(words)}" if words else "")


def _save(session: Session, arguments: Sequence[str]) -> str:
    """Write the generations of the prompts so far to a file."""
    file = Path(" ".join(arguments)).expanduser()
    forms = {".csv": _csv, ".jsonl": _jsonl}
    if file.suffix not in forms:
        raise UserError("/save wants a file name that ends in .csv (a line per prompt and method) or .jsonl (records).")
    if not file.absolute().parent.is_dir():
        raise UserError(f"/save {file}: there is no directory {file.absolute().parent}; choose one that exists.")
    write_whole(file.absolute(), forms[file.suffix](session))
    return f"{len(session.runs)} generations saved to {file}"


def _csv(session: Session) -> str:
    return as_csv(row(run.record(), "autoregressive" if run.name == TARGET else run.name, run.handles, run.seed) for run in session.runs)


def _jsonl(session: Session) -> str:
    return "".join(to_json(run.line()) + "\n" for run in session.runs)


_RULES = "; ".join(" ".join((name, *arguments)) for name, arguments in PROCESSORS.items())
_CACHES, _STORAGES = "|".join(CACHES), "|".join(STORAGES)
_TABLE = (
    Command("/help", "", "list the commands and their present values", _shown),
    Command("/quit", "", "leave (also Ctrl-D)", _quit),
    Command("/debug", "", "show each round's draft: kept, refused, the target's own token", _switch("debug"), _on("debug")),
    Command("/clear", "", "clear the screen", _shown),
    Command("/target", "", "decode with the target alone, which speedups are against", _toggle(TARGET), _state(TARGET)),
    Command("/drafter", "", "decode with the draft model alone", _toggle(DRAFTER), _state(DRAFTER)),
    Command("/speculative", "", "decode speculatively, with the draft model", _speculative, _state(SPECULATIVE, EGAG)),
    Command("/ngram", "", "decode with n-gram counts of prompt and text (nasd)", _toggle(NASD), _state(NASD)),
    Command("/method", "NAME [KEY=VALUE ...]", "switch any method on with these settings; without settings, on or off", _method),
    Command("/cache", f"[{_CACHES}]", "how keys and values are kept; without a name: none, or full again", _cache, _cache_name, CACHES),
    Command("/chat", "", "put prompts into the chat template", _switch("chat"), _on("chat")),
    Command("/length", "N", "tokens to generate at most", _length, lambda s: s.length),
    Command("/gamma", "N", "tokens drafted per round, for all methods with a gamma and no policy", _gamma, lambda s: s.gamma or ""),
    Command("/processor", "NAME [VALUE ...]", _RULES, _processor, _processor_now, tuple(PROCESSORS)),
    Command("/seed", "N", "the seed of sampling", _seed, lambda s: s.seed),
    Command("/top_k_filler", "N", "n-gram: count the target's N best ids at each position", *_setting(NASD, "top_k_filler")),
    Command("/set_ngramstorage", f"{_STORAGES} [N]", "n-gram: contexts of fewer than N tokens, or of N - 1", _storage, _stored, STORAGES),
    Command("/reset_in_between", "", "n-gram: forget the counts between prompts, or keep them", _reset, _resets),
    Command("/egag", "", "speculate with draft lengths by the draft's entropy, not by gamma", _egag, _state(EGAG)),
    Command("/egag_gamma_min", "N", "egag's shortest draft", *_setting(EGAG, "gamma_min")),
    Command("/egag_gamma_max", "N", "egag's longest draft", *_setting(EGAG, "gamma_max")),
    Command("/egag_ema", "X", "egag's weight for the lengths so far; 0 ignores them", *_setting(EGAG, "ema")),
    Command("/compare", "", "figures of all prompts so far, by method and settings", _shown),
    Command("/save", "FILE", "write the prompts so far to a .csv or .jsonl file", _save),
)
COMMANDS = {command.name: command for command in _TABLE}
