"""What the console's commands change: which methods decode each prompt, and how. A value, changed only as a whole.

Knows how a setting is written as a Hydra override; nothing of decoders, terminals or what a value means: the configuration checks that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

TARGET, DRAFTER, SPECULATIVE, EGAG, NASD = "target", "drafter", "speculative", "egag", "nasd"
METHODS = {TARGET: "autoregressive", DRAFTER: "autoregressive"}  # sides that are no method of their own name
ALONE = {DRAFTER: ("method.decoder.target=${runners.draft}",)}


@dataclass(frozen=True)
class Settings:
    """enabled: sides, in the order they decode. given: of each method, settings as KEY=VALUE by key. gamma: of all that have one.

    pair: overrides of everything but method, sampling and cache, from the command line. sampling, cache: overrides.
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
        """With the side enabled behind the others (the target before them), or without it."""
        if side in self.enabled:
            return replace(self, enabled=tuple(other for other in self.enabled if other != side))
        return replace(self, enabled=(side, *self.enabled) if side == TARGET else (*self.enabled, side))

    def exchanged(self, one: str, other: str) -> Settings:
        """`other` where `one` was enabled; enabled at the end where neither was."""
        if one not in self.enabled:
            return self if other in self.enabled else self.toggled(other)
        return replace(self, enabled=tuple(other if side == one else side for side in self.enabled if side != other))

    def with_given(self, side: str, settings: Mapping[str, str]) -> Settings:
        return replace(self, given={**self.given, side: {**self.given.get(side, {}), **settings}})

    def overrides(self, side: str) -> tuple[str, ...]:
        """Hydra overrides for one side, but for `gamma`, which not every method has."""
        own = [_override(key, value) for key, value in self.given.get(side, {}).items()]
        chosen = (f"method={METHODS.get(side, side)}", *ALONE.get(side, ()))
        return (*self.pair, *self.sampling, *self.cache, *chosen, *own)

    def has_own_gamma(self, side: str) -> bool:
        return "gamma" in self.given.get(side, {})


def _override(key: str, value: str) -> str:
    """gamma=8 -> method.gamma=8; verifier@decoder.verifier=typical -> verifier@method.decoder.verifier=typical."""
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
    """KEY=VALUE words by key."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}
