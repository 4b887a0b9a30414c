"""This module looks closely at the passes of a run: it times them by their width before the records are made, which gives the run's cost
curve, and it can write down a few rounds under torch.profiler.

A pass is timed on the runners that a run decodes with. It is repeated at one place of a text, over the same last tokens each time; the next
`start` forgets them. Widths for which a runner would have to compile first are left out. The profile is made apart from everything that is
timed: a trace to look at, and the operators that took most time. Its seconds are longer than those of a run, because the profiler notes
every operator. This module knows decoders, clocks and files and nothing of what follows from the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Runner, within
from specexp.decoding.sampling import Draws, Sampling
from specexp.figures.cost import CostCurve

WIDTHS = (1, 2, 3, 5, 8, 9, 17)  # CPUs multiply more than 8 rows by another method, which shows as a step in the curve
WIDEST = 64  # the widest pass that is tried where only some widths are ready
BEHIND = 16  # how many tokens after the prompt passes are measured
DRAFTED = 4  # tokens of a measured rollout
REPEATS, LEAST_REPEATS, SECONDS = 15, 3, 0.6  # as many repeats as fit into the seconds, but at least the least
COPIED, COPIES = 2**28, 8  # bytes of a copy that measures the memory's bandwidth; copies timed at once

Pass = Callable[[], object]


class Place:
    """A runner that has read some tokens after a prompt, and the passes that can be made there."""

    def __init__(self, runner: Runner, prompt: Sequence[int], max_new_tokens: int):
        behind = max(1, min(BEHIND, max_new_tokens // 2))
        opening = runner.start(prompt, max_new_tokens)
        self.runner, self.prompt = runner, prompt
        self.context = Context([*opening, *islice(cycle(prompt), behind)], runner.facts.device)
        self.room = within(max(0, max_new_tokens - behind), runner.room(self.context))

    def passes(self) -> dict[int, Pass]:
        """The passes by width, ascending: all for which the rest of the text and the cache have room. Where a runner has only some widths
        ready, only those.
        """
        prepared = [width for width in range(1, WIDEST + 1) if self.runner.ready(width)]
        several = set(WIDTHS[1:]) <= set(prepared)
        widths = [width for width in WIDTHS if width in prepared] if several else prepared
        return {width: self._scored(width) for width in widths if width <= self.room + 1}

    def _scored(self, width: int) -> Pass:
        draft = Draft.of_ids(list(islice(cycle(self.prompt), width - 1)), self.runner.facts.device)
        return partial(self.runner.logits, self.context, draft, rows=width)

    def rollout(self, sampling: Sampling) -> Pass | None:
        """A rollout of DRAFTED tokens, or of fewer where no compiled program is that long: each token is a pass of its own, and a program
        for longer drafts makes a few more.
        """
        draws = Draws(sampling, ("cost curve",), self.runner.facts.device)
        length = next((n for n in range(DRAFTED, 0, -1) if self.runner.ready_to_draft(n, draws)), None)
        if self.room < DRAFTED or length is None:
            return None
        return partial(self.runner.rollout, self.context, length, draws)


@torch.inference_mode()
def measured_curve(
    sides: Mapping[str, Decoder], prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling
) -> CostCurve | None:
    """The cost curve of the side "method", at the prompt of median length. None where the method is not our loop.

    prompts: token ids. sampling: the run's, for drafts. Where the method's runner has not compiled a pass of a single token, the
    baseline's is measured; None where neither has.
    """
    method, prompt = sides["method"], sorted(prompts, key=len)[len(prompts) // 2]
    if not isinstance(method, Decoder):
        return None
    single = next((side.target for side in _own(sides) if side.target.ready(1)), None)
    if single is None:
        return None
    device, place = torch.device(single.facts.device), Place(single, prompt, max_new_tokens)
    step = place.passes()[1]
    step()
    kv_bytes = single.usage().kv_bytes
    passes = (place if single is method.target else Place(method.target, prompt, max_new_tokens)).passes() | {1: step}
    places = {name: Place(runner, prompt, max_new_tokens) for name, runner in method.drafter.models.items()}
    drafts = {name: rollout for name, beside in places.items() if (rollout := beside.rollout(sampling)) is not None}
    before = {name: places[name].runner.usage().forwards for name in drafts}
    repeats, seconds = medians([*(passes[width] for width in sorted(passes)), *drafts.values()], device)
    made = [(places[name].runner.usage().forwards - before[name]) / (repeats + 1) for name in drafts]
    per_pass = [taken / count for taken, count in zip(seconds[len(passes) :], made, strict=True)]
    return CostCurve(
        context_tokens=len(place.context),
        repeats=repeats,
        widths=sorted(passes),
        target_seconds=seconds[: len(passes)],
        draft_seconds=dict.fromkeys(places) | dict(zip(drafts, per_pass, strict=True)),
        weight_bytes=weight_bytes(method.target.model),
        kv_bytes=kv_bytes,
        bandwidth=memory_bandwidth(device) if device.type == "cuda" else None,
    )


def _own(sides: Mapping[str, Decoder]) -> list[Decoder]:
    """The method, and the baseline if it is our loop."""
    return [sides[name] for name in ("method", "baseline") if isinstance(sides.get(name), Decoder)]


def medians(passes: Sequence[Pass], device: torch.device) -> tuple[int, list[float]]:
    """(repeats, median seconds of each pass). The passes take turns, so that a slow moment of the machine falls on all of them; the first
    turn is not counted.
    """
    for run in passes:
        run()
    seconds: list[list[float]] = [[] for _ in passes]
    began = perf_counter()
    while (turns := len(seconds[0])) < LEAST_REPEATS or (turns < REPEATS and perf_counter() - began < SECONDS):
        for run, own in zip(passes, seconds, strict=True):
            own.append(_timed(run, device))
    return turns, [median(own) for own in seconds]


def _timed(run: Pass, device: torch.device) -> float:
    """Seconds of one pass; the device is idle before and after."""
    _settle(device)
    began = perf_counter()
    run()
    _settle(device)
    return perf_counter() - began


def _settle(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights that a pass of the decoder reads: all but an encoder, and an embedding that is not the output projection too."""
    head = model.get_output_embeddings()
    read = set() if head is None else {id(parameter) for parameter in head.parameters()}
    encoder = model.get_encoder().parameters() if model.config.is_encoder_decoder else ()
    skipped = {id(parameter) for parameter in (*model.get_input_embeddings().parameters(), *encoder)} - read
    return sum(parameter.nbytes for parameter in model.parameters() if id(parameter) not in skipped)


def memory_bandwidth(device: torch.device, size: int = COPIED) -> float:
    """Bytes per second, read and written, of copies of `size` bytes within the device's memory."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copies() -> None:
        for _ in range(COPIES):
            target.copy_(source)

    _, [seconds] = medians([copies], device)
    return 2 * COPIES * size / seconds


TRACE, OPERATORS = "profile_trace.json", "profile_operators.txt"
SHORT = 16  # tokens of the text that a loop which is not ours decodes


class NoProfile:
    """`profile=none`: nothing is written."""

    def write(self, decoder: Decoder, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, directory: Path) -> None:
        pass


@dataclass(frozen=True)
class TorchProfile:
    """`profile=torch`. rounds: how many after the prefill, fewer where the text ends; a loop that is not ours decodes a short text
    instead. operators: how many rows the table has.
    """

    rounds: int = 4
    operators: int = 30

    def __post_init__(self) -> None:
        for name in ("rounds", "operators"):
            if getattr(self, name) < 1:
                raise ValueError(f"profile.{name}={getattr(self, name)} shows nothing; give 1 or more, or choose profile=none.")

    def write(self, decoder: Decoder, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, directory: Path) -> None:
        """Decodes a text for this purpose alone and writes both files."""
        from torch.profiler import profile

        decoder.prepare(prompt, max_new_tokens)
        draws = Draws(sampling, ("profile",), decoder.target.facts.device)
        with torch.inference_mode():
            if isinstance(decoder, Decoder):
                steps = _labelled(decoder).generate(prompt, max_new_tokens, _never, draws)
                next(steps)
                steps = islice(steps, self.rounds)
            else:
                steps = decoder.generate(prompt, min(max_new_tokens, SHORT), _never, draws)
            with profile() as profiled:
                for _ in steps:
                    pass
        profiled.export_chrome_trace(str(directory / TRACE))
        kind = "cpu" if torch.device(decoder.target.facts.device).type == "cpu" else "device"
        table = profiled.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=self.operators, max_name_column_width=60)
        (directory / OPERATORS).write_text(table, encoding="utf-8")


def _never(ids: Sequence[int], since: int) -> None:
    return None


def _labelled(decoder: Decoder) -> Decoder:
    """The same decoder with the parts of its rounds named in the trace."""
    named = copy(decoder)
    named.drafter = _Labelled(decoder.drafter, "propose", "draft")
    named.target = _Labelled(decoder.target, "logits", "target")
    named.verifier = _Labelled(decoder.verifier, "__call__", "verify")
    return named


class _Labelled:
    """Wraps `part`, whose `method` appears in the trace as `label`."""

    def __init__(self, part: object, method: str, label: str):
        self._part, self._method, self._label = part, method, label

    def __getattr__(self, name: str) -> object:
        found = getattr(self._part, name)
        return self._shown(found) if name == self._method else found

    def __call__(self, *arguments: object) -> object:
        return self._shown(self._part)(*arguments)

    def _shown(self, function: Callable) -> Callable:
        from torch.profiler import record_function

        def shown(*arguments: object, **named: object) -> object:
            with record_function(self._label):
                return function(*arguments, **named)

        return shown
