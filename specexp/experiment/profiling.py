"""A few rounds of a method under torch.profiler: a trace to look at, and the operators that took most. Outside everything that is timed.

Knows decoders and files. Seconds in a trace are longer than those of a run: the profiler writes every operator down.
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
SHORT = 16  # tokens of a text that another loop than ours makes in one go


class NoProfile:
    """`profile=none`."""

    def write(self, decoder: Decoder, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, directory: Path) -> None:
        pass


@dataclass(frozen=True)
class TorchProfile:
    """`profile=torch`. rounds: so many behind the prefill, fewer where the text ends; of a loop that is not ours, a short text. operators:
    rows of the table."""

    rounds: int = 4
    operators: int = 30

    def __post_init__(self) -> None:
        for name in ("rounds", "operators"):
            if getattr(self, name) < 1:
                raise ValueError(f"profile.{name}={getattr(self, name)} shows nothing; give 1 or more, or choose profile=none.")

    def write(self, decoder: Decoder, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, directory: Path) -> None:
        """Both files, of a text that is decoded for them alone."""
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
    """The same parts, their shares of a round named in the trace."""
    named = copy(decoder)
    named.drafter = _Labelled(decoder.drafter, "propose", "draft")
    named.target = _Labelled(decoder.target, "logits", "target")
    named.verifier = _Labelled(decoder.verifier, "__call__", "verify")
    return named


class _Labelled:
    """`part`, whose `method` shows as `label`."""

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
