"""The console without its terminal: which methods decode each prompt and how (`Settings`), and what came of it (`Session`).

Every side runs through the same engine as the server, and so through the same loop and clock as an experiment. Sides are warmed up before
they are timed, and decode in a fixed order; figures with intervals are an experiment's business. A setting that cannot be used is refused
and changes nothing. This module knows how a setting is written as a Hydra override; what its value means is checked by the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from omegaconf import DictConfig, OmegaConf

from specexp.cli.check import check
from specexp.decoding.decoder import Decoder, Round
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.figures.record import Record, SideRecord
from specexp.figures.speed import summarise_speed
from specexp.live.engine import CANCELLED, Engine, Piece, Request, open_decoder, open_pair

WARMUP_TOKENS = 16


TARGET, DRAFTER, SPECULATIVE, EGAG, NASD = "target", "drafter", "speculative", "egag", "nasd"
METHODS = {TARGET: "autoregressive", DRAFTER: "draft_alone"}  # sides that are not called like their method


@dataclass(frozen=True)
class Settings:
    """A value that is only changed as a whole. enabled: sides, in the order in which they decode. given: the settings given to each method,
    by key. gamma: for all methods that have one. sampling, cache: overrides. pair: overrides of everything else, from the command line.
    """

    enabled: tuple[str, ...] = (TARGET, SPECULATIVE)
    given: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gamma: int | None = None
    sampling: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()
    length: int = 128
    seed: int = 0
    chat: bool = False
    debug: bool = False

    def toggled(self, side: str) -> Settings:
        """The settings with this side enabled after the others (the target before them), or without it if it was enabled."""
        if side in self.enabled:
            return replace(self, enabled=tuple(other for other in self.enabled if other != side))
        return replace(self, enabled=(side, *self.enabled) if side == TARGET else (*self.enabled, side))

    def exchanged(self, one: str, other: str) -> Settings:
        """The settings with `other` in the place of `one`; if neither was enabled, `other` comes last."""
        if one not in self.enabled:
            return self if other in self.enabled else self.toggled(other)
        return replace(self, enabled=tuple(other if side == one else side for side in self.enabled if side != other))

    def with_given(self, side: str, settings: Mapping[str, str]) -> Settings:
        return replace(self, given={**self.given, side: {**self.given.get(side, {}), **settings}})

    def overrides(self, side: str) -> tuple[str, ...]:
        """The Hydra overrides for one side, without `gamma`, which not every method has."""
        own = [_override(key, value) for key, value in self.given.get(side, {}).items()]
        chosen = (f"method={METHODS.get(side, side)}",)
        return (*self.pair, *self.sampling, *self.cache, *chosen, *own)

    def beside(self, side: str, handles: Collection[str]) -> dict[str, object]:
        """What figures of this side depend on besides its `handles`: what all sides have in common, and which parts it was given."""
        usual = {"cache": "full", "sampling": "greedy"} | pairs((*self.cache, *self.sampling))
        parts = {key: value for key, value in self.given.get(side, {}).items() if key not in handles}
        return usual | {"length": self.length, "chat": self.chat} | parts

    def has_own_gamma(self, side: str) -> bool:
        return "gamma" in self.given.get(side, {})


@dataclass
class Side:
    """One way to decode. handles: the method's settings, as the configuration resolved them."""

    name: str
    handles: dict[str, object]
    engine: Engine
    decoder: Decoder
    sampling: Sampling
    ignore_eos: bool
    warm: bool = False


@dataclass(frozen=True)
class Run:
    """One prompt decoded by one side. side, baseline: as in a record; the baseline is the target's own run, if it was enabled."""

    prompt_id: int
    prompt: str
    name: str
    handles: dict[str, object]
    seed: int
    side: SideRecord
    baseline: SideRecord | None
    beside: Mapping[str, object] = field(default_factory=dict)  # what its figures depend on besides the handles

    def record(self) -> Record:
        sides = {"method": self.side} | ({} if self.baseline is None else {"baseline": self.baseline})
        return Record(str(self.prompt_id), 0, self.prompt, (), sides)

    def line(self) -> dict[str, object]:
        """As a line of records.jsonl, with the name, settings and seed that the console knows."""
        record = self.record()
        named = {"id": record.id, "sample": record.sample, "prompt": record.prompt}
        known = {"name": self.name, "settings": self.handles, "seed": self.seed}
        return named | known | {name: side.to_json() for name, side in record.sides.items()}


class View(Protocol):
    """What shows a session's progress while it decodes."""

    def begin(self, name: str) -> None: ...

    def hear(self, round_: Round, pieces: list[Piece]) -> None: ...

    def end(self, finish: str) -> None: ...


class Session:
    """compose: overrides -> configuration. build: instantiates a node of it. Raises UserError if the first settings cannot be used."""

    def __init__(self, settings: Settings, compose: Callable[[Sequence[str]], DictConfig], build: Callable):
        self._compose, self._build = compose, build
        self._sides: dict[tuple, Side] = {}
        self.runs: list[Run] = []
        self._prompts = 0
        self.settings = settings
        self.adopt(settings)

    @property
    def has_template(self) -> bool:
        """Whether prompts can be put into a chat template."""
        return all(side.engine.has_template for side in self.sides)

    @property
    def sides(self) -> list[Side]:
        """The enabled ones."""
        return [self._sides[self._key(name, self.settings)] for name in self.settings.enabled]

    def adopt(self, settings: Settings) -> None:
        """Use these settings from now on and give up decoders that are not needed. UserError, and nothing changed, if they do not work."""
        found = {}
        for name in settings.enabled:
            key, config = self._key(name, settings), self._composed(name, settings)
            side, sampling = self._sides.get(key) or self._opened(name, config), self._build(config.sampling)
            side.decoder.check(sampling)
            found[key] = replace(side, sampling=sampling)
        if settings.chat and not all(side.engine.has_template for side in found.values()):
            raise UserError("the tokenizer has no chat template; begin with chat_template=plain or chat_template=FILE.")
        self._sides, self.settings = found, settings

    def decode(self, prompt: str, view: View, cancelled: Callable[[], bool]) -> list[Run]:
        """Decode the prompt by every enabled side, the target first. A cancelled side leaves no run and is the last one."""
        if not self.settings.enabled:
            raise UserError("nothing is enabled; /target and /speculative enable the usual two.")
        requests = [self._request(side, prompt) for side in self.sides]
        self._prompts += 1
        runs: list[Run] = []
        for side, request in zip(self.sides, requests, strict=True):
            self._warm_up(side, request)
            view.begin(side.name)
            answer = side.engine.answer(side.decoder, request, view.hear, cancelled)
            view.end(answer.finish)
            if answer.finish == CANCELLED:
                break
            own = answer.side()
            baseline = runs[0].side if runs and runs[0].name == TARGET else own if side.name == TARGET else None
            beside = self.settings.beside(side.name, side.handles)
            runs.append(Run(self._prompts, prompt, side.name, side.handles, self.settings.seed, own, baseline, beside))
        self.runs += runs
        return runs

    def _request(self, side: Side, prompt: str) -> Request:
        ids = side.engine.render([{"role": "user", "content": prompt}]) if self.settings.chat else side.engine.ids(prompt)
        request = Request(ids, self.settings.length, side.sampling, (self.settings.seed,), ignore_eos=side.ignore_eos)
        side.engine.check(request)
        return request

    def _warm_up(self, side: Side, request: Request) -> None:
        """Decode a little before the first timed prompt, because first calls are slow."""
        if not side.warm:
            brief = Request(request.prompt, min(request.max_new_tokens, WARMUP_TOKENS), request.sampling, ("warmup",))
            side.engine.answer(side.decoder, brief, lambda round_, pieces: None, lambda: False)
            side.warm = True

    def _key(self, name: str, settings: Settings) -> tuple:
        """What a decoder depends on; the sampling rule belongs to each prompt."""
        return (name, replace(settings, sampling=()).overrides(name), settings.gamma)

    def _composed(self, name: str, settings: Settings) -> DictConfig:
        config = self._compose(settings.overrides(name))
        fixed = "gamma" in config.method and config.method.get("policy") is None  # a policy decides in gamma's place
        if settings.gamma is not None and fixed and not settings.has_own_gamma(name):
            config.method.gamma = settings.gamma
        check(config, settings.overrides(name))
        return config

    def _opened(self, name: str, config: DictConfig) -> Side:
        handles = {key: value for key, value in OmegaConf.to_container(config.method, resolve=True).items() if not isinstance(value, dict)}
        handles.pop("name")
        decoder, sampling = open_decoder(config, self._build), self._build(config.sampling)
        return Side(name, handles, open_pair(config, self._build), decoder, sampling, config.ignore_eos)


def figures(runs: Sequence[Run]) -> dict:
    """An experiment's figures over runs of one side; those that compare with the target, over the prompts that it decoded too."""
    paired = [run.record() for run in runs if run.baseline is not None]
    alone = [replace(run, baseline=None).record() for run in runs]
    against = summarise_speed(paired) if paired else {}
    return {key: against.get(key) for key in ("speedup", "equal_texts")} | summarise_speed(alone)


def _override(key: str, value: str) -> str:
    """gamma=8 -> method.gamma=8; verifier@verifier=typical -> verifier@method.verifier=typical."""
    sign, bare = (key[0], key[1:]) if key[0] in "+~" else ("", key)
    group, at, place = bare.rpartition("@")
    name = f"{group}{at}method.{place.removeprefix('method.')}"
    return f"{sign}{name}" if sign == "~" and not value else f"{sign}{name}={value}"


def from_command_line(overrides: Sequence[str], method: str, length: int, seed: int) -> Settings:
    """The settings that the command's own overrides mean; `method`, `length` and `seed` as composed from them."""
    parts: dict[str, list[str]] = {"method": [], "sampling": [], "cache": [], "pair": []}
    for override in overrides:
        parts[_part(override)].append(override)
    given = dict(_setting(override) for override in parts["method"] if override.partition("=")[0] != "method")
    enabled = (TARGET,) if method == METHODS[TARGET] else (TARGET, method)
    fixed = {name: tuple(parts[name]) for name in ("sampling", "cache", "pair")}
    return Settings(enabled, {method: given} if given else {}, length=length, seed=seed, **fixed)


def _part(override: str) -> str:
    name = override.partition("=")[0].lstrip("+~")
    place = name.rpartition("@")[2].partition(".")[0]
    return place if place in ("method", "sampling", "cache") else "pair"


def _setting(override: str) -> tuple[str, str]:
    """method.gamma=8 -> (gamma, 8); the inverse of `_override`."""
    key, _, value = override.partition("=")
    return key.replace("method.", "", 1), value


def pairs(words: Iterable[str]) -> dict[str, str]:
    """The values of KEY=VALUE words, by key."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}
