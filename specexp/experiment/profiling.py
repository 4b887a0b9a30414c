"""A few rounds of a method under torch.profiler, apart from everything that is timed: a trace to look at, and the operators that took most
time.

Seconds in a trace are longer than those of a run, because the profiler notes every operator. This module knows decoders and files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from specexp.decoding.decoder import Decoder
from specexp.decoding.sampling import Draws, Sampling

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
        import torch
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
