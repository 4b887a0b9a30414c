"""onnxruntime-genai's engine over converted models, round by round: one `Generator` per request, greedy, on the CPU.

Whether it speculates is a matter of its options and of the models it was given; what a round did is read off its own statistics
(`get_speculative_stats`), which tell how many tokens were drafted, but not which. Knows nothing of our models and decoders.
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
    """tokens: emitted at `time` (`perf_counter` seconds). drafted: None where the engine made a plain step.

    Passes: since the last round; the prefills are none of them.
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
    """Of each step, those in the statistics and those that they leave out: over the tokens of plain steps, which the next step makes.

    Found and tested against ONNX Runtime's profile, which tells every run of a graph (tests/peers/test_ort.py).

    waiting: the last token has had no pass yet. plain: it came from a plain step.
    """

    waiting: bool = False
    plain: bool = False
    extra: int = 0

    def of(self, done: Mapping[str, float]) -> tuple[int, int]:
        """(target's, draft's) of the step by which the statistics grew so."""
        counted, speculated = done["target_forward_passes"], bool(done["rounds"])
        left_out = self.waiting and (self.plain if speculated else not counted)
        passes = counted + left_out + self.extra, done["draft_forward_passes"] + self.extra
        self.waiting, self.plain, self.extra = not (speculated and done["target_reanchor_forward_passes"]), not speculated, 0
        return passes

    def read_by_itself(self) -> None:
        """The last token has had a pass of its own, in both models, that is in no statistics."""
        self.waiting, self.extra = False, 1


@dataclass(frozen=True)
class Session:
    """model: the engine's, with its weights."""

    model: object

    def rounds(self, prompt: Sequence[int], max_new_tokens: int, options: Mapping[str, int]) -> Iterator[EngineRound]:
        """Until max_new_tokens are emitted; no id ends a text. options: the engine's speculative ones; none: it decodes one by one."""
        generator = self._generator(len(prompt) + max_new_tokens, options)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        before, passes, left = _statistics(generator, options), Passes(), max_new_tokens
        while left:
            tokens = _delivered(generator, options)
            time, now = perf_counter(), _statistics(generator, options)
            done = {key: now[key] - before[key] for key in now}
            yield _round(tokens, time, done, *passes.of(done))
            before, left = now, left - len(tokens)
            if left and generator.is_done():  # by an id that ends a text for the engine, which always knows one, and does not read it
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
    """The engine with these models, loaded once. threads: of each model's passes."""
    import onnxruntime_genai as engine

    with TemporaryDirectory() as place:
        (Path(place) / "genai_config.json").write_text(json.dumps(_config(target, draft, threads)), encoding="utf-8")
        for name, converted in (("target", target), ("draft", draft)):
            if converted is not None:  # a path that leads out of the directory the engine refuses
                (Path(place) / name).symlink_to(converted.place.resolve(), target_is_directory=True)
        return Session(engine.Model(place))


def _config(target: Converted, draft: Converted | None, threads: int) -> dict[str, dict]:
    """The target's, and the draft's decoder in it."""
    model = target.config["model"] | {"decoder": _decoder(target, "target", threads)}
    if draft is not None:
        model["draft"] = _decoder(draft, "draft", threads)
    return {"model": model, "search": target.config["search"] | SEARCH}


def _decoder(converted: Converted, name: str, threads: int) -> dict[str, object]:
    decoder = converted.config["model"]["decoder"]
    settings = decoder["session_options"] | {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    return decoder | {"filename": f"{name}/{decoder['filename']}", "session_options": settings}


def _delivered(generator: object, options: Mapping[str, int]) -> tuple[int, ...]:
    """The tokens of one step: the engine computes them all with the first, and hands them out one by one."""
    tokens = [_next(generator)]
    for _ in range(generator.get_speculative_stats()["tokens_buffered"] if options else 0):
        if not generator.is_done():
            tokens.append(_next(generator))
    return tuple(tokens)


def _next(generator: object) -> int:
    generator.generate_next_token()
    return int(generator.get_next_tokens()[0])


def _statistics(generator: object, options: Mapping[str, int]) -> dict[str, float]:
    """Cumulative; all 0 where the engine keeps none."""
    told = generator.get_speculative_stats() if options else dict.fromkeys((*COUNTED, *TIMED), 0)
    return {key: told[key] for key in (*COUNTED, *TIMED)}


def _round(tokens: tuple[int, ...], time: float, done: Mapping[str, float], target_passes: int, draft_passes: int) -> EngineRound:
    """done: what the statistics grew by."""
    drafted = done["draft_tokens_proposed"] if done["rounds"] else None
    target_seconds = None if drafted is None else done["total_target_ms"] / 1000
    accepted = min(done["draft_tokens_accepted"], len(tokens))
    return EngineRound(tokens, time, drafted, accepted, target_passes, draft_passes, done["total_draft_ms"] / 1000, target_seconds)
