"""One generation, timed: the rounds that a decoder gives become the counts and seconds of a record. The experiment, the console and the
server all run decoders through this module, so what they show is measured alike.

The times of the drafter and of the target's passes are taken on the host. They are true only where calls return when the work is done, so
they are given on CPU only. This module knows decoders and clocks and nothing of data sets, scores or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, process_time

import torch

from specexp.decoding.context import Context
from specexp.decoding.decoder import Decoder, Round
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Draws, Sampling
from specexp.figures.record import Repeat, SideRecord
from specexp.runners.calls import decoder_start
from specexp.runners.lengths import context_length
from specexp.runners.runner import StatelessRunner


@dataclass(frozen=True)
class Generation:
    """What happened: the rounds, when each emitted (seconds since the request), and what the generation cost."""

    rounds: tuple[Round, ...]
    times: tuple[float, ...]
    target_forwards: int
    draft_forwards: dict[str, int]  # by draft model
    kv_bytes_target: int
    kv_bytes_draft: int
    evicted: tuple[int, ...]  # at each emission, how many tokens the target's cache had dropped so far
    peak_memory_bytes: int | None
    on_cpu: bool
    cpu_seconds: float | None = None  # of all threads, from the request to the last emission; None where decoding is on another device

    @property
    def token_ids(self) -> list[int]:
        return [token for each in self.rounds for token in each.tokens]

    @property
    def decode_seconds(self) -> float:
        return self.times[-1] - self.times[0]

    @property
    def content(self) -> list[int]:
        """The ids by which two repeats are compared."""
        return self.token_ids

    def repeat(self) -> Repeat:
        """The times of this repeat. The first emission ends the prefill, which is kept apart from the times of the rounds."""
        timed = self.rounds[1:]
        return Repeat(
            tokens=len(self.token_ids),
            first_tokens=len(self.rounds[0].tokens),
            rounds=len(timed),
            drafted=sum(each.drafted for each in timed),
            ttft_seconds=self.times[0],
            decode_seconds=self.decode_seconds,
            target_seconds=_total(each.target_seconds for each in timed) if self.on_cpu else None,
            draft_seconds=_total(each.draft_seconds for each in timed) if self.on_cpu else None,
            cpu_seconds=self.cpu_seconds,
        )

    def record(self) -> SideRecord:
        """The side's record with the counts; the caller adds text, score and likelihood."""
        first_drafted = self.rounds[0].drafted > 0
        rounds = self.rounds if first_drafted else self.rounds[1:]
        return SideRecord(
            repeats=(self.repeat(),),
            text="",
            finish=self.rounds[-1].finish,
            token_ids=self.token_ids,
            rounds=[each.counts for each in rounds],
            first_rounds=int(first_drafted),
            entropies=_entropies(rounds),
            tree=_tree(rounds),
            origins=[origin for each in self.rounds for origin in each.origins],
            target_forwards=self.target_forwards,
            draft_forwards_by_model=self.draft_forwards,
            kv_bytes_target=self.kv_bytes_target,
            kv_bytes_draft=self.kv_bytes_draft,
            compression_count=sum(now > before for before, now in pairwise((0, *self.evicted))),  # rounds in which it evicted
            tokens_evicted=self.evicted[-1],
            peak_memory_bytes=self.peak_memory_bytes,
        )


def _total(seconds: Iterable[float | None]) -> float | None:
    """The sum of the seconds; None where any of them is not known."""
    known = list(seconds)
    return None if None in known else sum(known)


def _entropies(rounds: Sequence[Round]) -> list[float | None] | None:
    """The entropy of each round in which a draft-length policy read it; None where none ever did."""
    entropies = [None if each.entropy is None else round(each.entropy, 6) for each in rounds]
    return entropies if any(value is not None for value in entropies) else None


def _tree(rounds: Sequence[Round]) -> dict[str, tuple[int, ...]] | None:
    """The first draft that was not a chain, for display, and in it `own`, what the target added after its accepted path; None where all
    drafts were chains.
    """
    each = next((each for each in rounds if not each.is_chain), None)
    return None if each is None else {"nodes": each.nodes, "parents": each.parents, "path": each.path, "own": each.tokens[each.accepted :]}


@torch.inference_mode()
def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    max_new_tokens: int,
    stop: Stop,
    sampling: Sampling,
    seed: tuple,
    hear: Callable[[Round], None] | None = None,
) -> Generation:
    """Runs the decoder to its end. The clock is read at every emission, and the device is idle when it starts and when it stops.

    hear: is called with each round as it is made. The clock stands still meanwhile, so that showing text is not timed as decoding.
    """
    device, forgets = torch.device(decoder.target.facts.device), not decoder.target.facts.cache_exact
    draws = Draws(sampling, seed, device)
    drafts = decoder.drafter.models
    decoder.prepare(prompt, max_new_tokens)
    memory_before = _begin_memory(device)
    rounds, times, evicted = [], [], []
    spent, started = process_time(), perf_counter()
    for each in decoder.generate(prompt, max_new_tokens, stop, draws):
        rounds.append(each)
        times.append((perf_counter() if each.emitted is None else each.emitted) - started)
        evicted.append(decoder.target.tokens_evicted if forgets else 0)
        if hear is not None:
            paused = perf_counter()
            hear(each)
            started += perf_counter() - paused if each.emitted is None else 0.0  # a peer's times were taken before
    spent = process_time() - spent
    target, used = decoder.target.usage(), {name: runner.usage() for name, runner in drafts.items()}
    return Generation(
        rounds=tuple(rounds),
        times=tuple(times),
        target_forwards=target.forwards,
        draft_forwards={name: usage.forwards for name, usage in used.items()},
        kv_bytes_target=target.kv_bytes,
        kv_bytes_draft=sum(usage.kv_bytes for usage in used.values()),
        evicted=tuple(evicted),
        peak_memory_bytes=None if memory_before is None else torch.cuda.max_memory_allocated(device) - memory_before,
        on_cpu=device.type == "cpu",
        cpu_seconds=spent if device.type == "cpu" and hear is None else None,
    )


def _begin_memory(device: torch.device) -> int | None:
    """Bytes allocated now, after the device has become idle and its peak is reset; None where memory is not counted."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def opening(model: torch.nn.Module, prompt: Sequence[int]) -> list[int]:
    """The ids that the generated ones follow: the prompt, or what an encoder-decoder model's text begins with."""
    return [decoder_start(model)] if model.config.is_encoder_decoder else list(prompt)


@torch.inference_mode()
def continuation_nll(
    model: torch.nn.Module, prompt: Sequence[int], token_ids: Sequence[int], longest: int | None = None
) -> tuple[float, int]:
    """(sum of -log p(token), number of tokens) of a continuation: the model reads the true tokens in one pass at temperature 1, without a
    cache.

    A text longer than the model's context, which a streaming cache can write, is read in windows of that length that overlap by half.
    longest: that length, where it is not what the model's configuration says.
    """
    runner = StatelessRunner(model)
    ids = [*runner.start(prompt), *token_ids]
    longest = longest or context_length(model.config) or len(ids)
    nll, done = 0.0, len(ids) - len(token_ids)
    while done < len(ids):
        end = min(len(ids), max(longest, done + -(-longest // 2)))
        nll += _window_nll(runner, ids[max(0, end - longest) : done], ids[done:end])
        done = end
    return nll, len(token_ids)


def _window_nll(runner: StatelessRunner, before: Sequence[int], token_ids: Sequence[int]) -> float:
    draft = Draft.of_ids(token_ids, runner.device)
    logits = runner.logits(Context(before, runner.device), draft, rows=len(token_ids) + 1)[:-1]
    return -float(logits.float().log_softmax(-1).gather(1, draft.tokens[:, None]).cpu().double().sum())
