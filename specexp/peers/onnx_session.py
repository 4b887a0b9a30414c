"""onnxruntime-genai's engine over converted models, round by round: one `Generator` per request, greedy, on the CPU.

Whether it speculates depends on its options and on the models it was given. What a round did is read from the engine's own statistics
(`get_speculative_stats`), which say how many tokens were drafted, but not which. This module knows nothing of our models and decoders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from specexp.peers.onnx_conversion import Converted

SEARCH = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
SEARCH |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}
PASSES = ("target_forward_passes", "target_reanchor_forward_passes", "draft_forward_passes")
COUNTED = ("rounds", "draft_tokens_proposed", "draft_tokens_accepted", *PASSES)
TIMED = ("total_draft_ms", "total_target_ms")


@dataclass(frozen=True)
class EngineRound:
    """One round. tokens: emitted at `time` (`perf_counter` seconds). drafted: None where the engine made a plain step, without a draft.

    The numbers of passes count those since the last round; prefills are not counted.
    """

    tokens: tuple[int, ...]
    time: float
    drafted: int | None
    accepted: int
    target_passes: int
    draft_passes: int
    draft_seconds: float
    target_seconds: float | None


@dataclass
class Passes:
    """Counts the passes of each step: those in the statistics, and those that the statistics leave out, over the tokens of plain steps,
    which the next step makes.

    This was found, and is tested, with ONNX Runtime's profile, which lists every run of a graph (tests/peers/test_ort.py).

    waiting: the last token has had no pass yet. plain: it came from a plain step.
    """

    waiting: bool = False
    plain: bool = False
    extra: int = 0

    def of(self, done: Mapping[str, float]) -> tuple[int, int]:
        """The target's and the draft's passes in the step by which the statistics grew by `done`."""
        counted, speculated = done["target_forward_passes"], bool(done["rounds"])
        left_out = self.waiting and (self.plain if speculated else not counted)
        passes = counted + left_out + self.extra, done["draft_forward_passes"] + self.extra
        self.waiting, self.plain, self.extra = not (speculated and done["target_reanchor_forward_passes"]), not speculated, 0
        return passes

    def read_by_itself(self) -> None:
        """Notes that the last token has had a pass of its own, in both models, that is in no statistics."""
        self.waiting, self.extra = False, 1


@dataclass(frozen=True)
class Session:
    """The engine with loaded weights."""

    model: object

    def rounds(self, prompt: Sequence[int], max_new_tokens: int, options: Mapping[str, int]) -> Iterator[EngineRound]:
        """Gives rounds until max_new_tokens are emitted; no id ends a text. options: the engine's options for speculation; without any it
        decodes one token at a time.
        """
        generator = self._generator(len(prompt) + max_new_tokens, options)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        before, passes, left = _statistics(generator, options), Passes(), max_new_tokens
        while left:
            tokens = _delivered(generator, options)
            time, now = perf_counter(), _statistics(generator, options)
            done = {key: now[key] - before[key] for key in now}
            yield _round(tokens, time, done, *passes.of(done))
            before, left = now, left - len(tokens)
            if left and generator.is_done():  # at an end id: the engine always has one, and makes no pass over it
                generator.append_tokens(np.array([tokens[-1:]], dtype=np.int32))
                passes.read_by_itself()

    def _generator(self, length: int, options: Mapping[str, int]) -> object:
        import onnxruntime_genai as engine

        settings = engine.GeneratorParams(self.model)
        settings.set_search_options(max_length=length)
        if options:
            settings.set_speculative_options(**options)
        return engine.Generator(self.model, settings)


@lru_cache(maxsize=4)
def session(target: Converted, draft: Converted | None, threads: int) -> Session:
    """The engine with these models, loaded once. threads: how many each model's passes use."""
    import onnxruntime_genai as engine

    with TemporaryDirectory() as place:
        (Path(place) / "genai_config.json").write_text(json.dumps(_config(target, draft, threads)), encoding="utf-8")
        for name, converted in (("target", target), ("draft", draft)):
            if converted is not None:  # linked, because the engine refuses a path that leads out of the directory
                (Path(place) / name).symlink_to(converted.place.resolve(), target_is_directory=True)
        return Session(engine.Model(place))


def _config(target: Converted, draft: Converted | None, threads: int) -> dict[str, dict]:
    """The target's configuration, with the draft's decoder in it."""
    model = target.config["model"] | {"decoder": _decoder(target, "target", threads)}
    if draft is not None:
        model["draft"] = _decoder(draft, "draft", threads)
    return {"model": model, "search": target.config["search"] | SEARCH}


def _decoder(converted: Converted, name: str, threads: int) -> dict[str, object]:
    decoder = converted.config["model"]["decoder"]
    settings = decoder["session_options"] | {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    return decoder | {"filename": f"{name}/{decoder['filename']}", "session_options": settings}


def _delivered(generator: object, options: Mapping[str, int]) -> tuple[int, ...]:
    """The tokens of one step: the engine computes them all with the first, and hands them out one at a time."""
    tokens = [_next(generator)]
    for _ in range(generator.get_speculative_stats()["tokens_buffered"] if options else 0):
        if not generator.is_done():
            tokens.append(_next(generator))
    return tuple(tokens)


def _next(generator: object) -> int:
    generator.generate_next_token()
    return int(generator.get_next_tokens()[0])


def _statistics(generator: object, options: Mapping[str, int]) -> dict[str, float]:
    """The engine's statistics since the request began; all are 0 where the engine keeps none."""
    told = generator.get_speculative_stats() if options else dict.fromkeys((*COUNTED, *TIMED), 0)
    return {key: told[key] for key in (*COUNTED, *TIMED)}


def _round(tokens: tuple[int, ...], time: float, done: Mapping[str, float], target_passes: int, draft_passes: int) -> EngineRound:
    """The round in which the statistics grew by `done`."""
    drafted = done["draft_tokens_proposed"] if done["rounds"] else None
    target_seconds = None if drafted is None else done["total_target_ms"] / 1000
    accepted = min(done["draft_tokens_accepted"], len(tokens))
    return EngineRound(tokens, time, drafted, accepted, target_passes, draft_passes, done["total_draft_ms"] / 1000, target_seconds)
