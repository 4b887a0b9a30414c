"""Answers one prompt after another with a pair's decoder; the console and the server both use it. Pieces of text come out while rounds are
made, and in the end the same counts and seconds that an experiment would record.

It has no decoding loop of its own (experiment/generation.py runs the decoder), and knows neither terminals nor HTTP. A decoder works on one
text at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from omegaconf import DictConfig

from specexp.decoding.decoder import Decoder, Round
from specexp.decoding.protocols import Cut, Stop
from specexp.decoding.sampling import GREEDY, Sampling
from specexp.errors import UserError
from specexp.experiment.generation import Generation, generate, opening
from specexp.experiment.guard import guard, guarded
from specexp.experiment.sides import check_ids, crossing
from specexp.experiment.supply import Supply, arguments_of, prompter_of, supplied
from specexp.figures.record import SideRecord
from specexp.models.pair import ModelPair
from specexp.text import Message, Prompter, text_ids
from specexp.text.stopping import Detokenizer, Stopping

CANCELLED = "cancelled"
SAMPLE = "def add(a, b):\n    return a + b\n"  # a text that the models are checked with


@dataclass(frozen=True)
class Request:
    """prompt: ids, at least one. sampling, seed: of `Draws`. stop_strings end the text; with ignore_eos nothing does but max_new_tokens."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    seed: tuple = (0,)
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class Piece:
    """The text that has become certain since the last piece, and the origin of the token that made it certain."""

    text: str
    origin: str


@dataclass(frozen=True)
class Answer:
    generation: Generation
    text: str

    @property
    def finish(self) -> str:
        """ "eos", "stop", "length", or "cancelled"."""
        return self.generation.rounds[-1].finish

    def side(self) -> SideRecord:
        """What a record would hold of it, without scores and likelihood."""
        return replace(self.generation.record(), text=self.text)


Hear = Callable[[Round, list[Piece]], None]


class Engine:
    """prompter: makes the ids of prompts, with the tokenizer of the texts. stop_ids: those that end a text. longest_text: how many tokens
    prompt and text may have together, or None for no limit. switches, rows: as of `OwnTexts`."""

    def __init__(
        self,
        prompter: Prompter,
        stop_ids: Collection[int],
        longest_text: int | None = None,
        switches: Mapping[int, str] = MappingProxyType({}),
        rows: Mapping[str, int] = MappingProxyType({}),
    ):
        self.tokenizer, self.stop_ids, self.longest_text = prompter.tokenizer, tuple(stop_ids), longest_text
        self.switches, self.rows, self._prompter = switches, rows, prompter

    def ids(self, text: str) -> list[int]:
        """The ids of a prompt. UserError for a prompt without any token."""
        return _some(self._prompter.ids(text))

    def known_ids(self, ids: Sequence[int]) -> list[int]:
        """The same ids, of a prompt that was given as ids. UserError for one that the tokenizer does not have."""
        if odd := [token for token in ids if not 0 <= token < len(self.tokenizer)]:
            raise UserError(f"the prompt has the id {odd[0]}, and this model's end at {len(self.tokenizer) - 1}; send its own ids.")
        return _some(ids)

    @property
    def has_template(self) -> bool:
        return self._prompter.has_template

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation by the chat template. UserError if there is none, or if it refuses these messages or writes nothing."""
        return _some(self._prompter.chat_ids(messages))

    def check(self, request: Request) -> None:
        """UserError for a request that does not fit the models."""
        if self.longest_text is not None and len(request.prompt) + request.max_new_tokens > self.longest_text:
            raise UserError(
                f"{len(request.prompt)} prompt tokens and max_tokens={request.max_new_tokens} do not fit the models' context of "
                f"{self.longest_text}; ask for fewer tokens or shorten the prompt."
            )
        if (crossed := crossing(self.switches, len(request.prompt), request.max_new_tokens)) is not None:
            raise UserError(
                f"{len(request.prompt)} prompt tokens and max_tokens={request.max_new_tokens} cross {crossed} tokens, where "
                f"{self.switches[crossed]} rotates all positions otherwise; ask for {crossed - len(request.prompt)} tokens at most."
            )
        check_ids(request.prompt, self.rows, "the prompt")

    def answer(self, decoder: Decoder, request: Request, hear: Hear, cancelled: Callable[[], bool]) -> Answer:
        """Run the decoder on the request. `hear` gets every round with its text; `cancelled` is asked after each round whether to stop."""
        stopping = Stopping(self.tokenizer, () if request.ignore_eos else self.stop_ids, request.stop_strings)
        before = opening(decoder.target.model, request.prompt)
        text = Detokenizer(stopping, before)

        def hear_round(round_: Round) -> None:
            pieces = [Piece(text.feed(token), origin) for token, origin in zip(round_.tokens, round_.origins, strict=True)]
            last = [Piece(text.finish(), pieces[-1].origin if pieces else "target")] if round_.finish else []
            hear(round_, [piece for piece in pieces + last if piece.text])

        stop = cancellable(stopping, cancelled)
        generation = generate(decoder, request.prompt, request.max_new_tokens, stop, request.sampling, request.seed, hear_round)
        return Answer(generation, stopping.text(before, generation.token_ids))


def _some(ids: list[int]) -> list[int]:
    if not ids:
        raise UserError("the prompt is empty; give at least one token.")
    return ids


def cancellable(stop: Stop, cancelled: Callable[[], bool]) -> Stop:
    """A stop that also ends the text at its latest token once it is cancelled."""

    def end(ids: Sequence[int], since: int) -> Cut | None:
        return Cut(len(ids), CANCELLED) if cancelled() else stop(ids, since)

    return end


def open_pair(config: DictConfig, build: Callable) -> Engine:
    """The engine of a checked configuration's pair, whose target is loaded here. UserError for a model or tokenizer that cannot be had."""
    from specexp.models.loading import load_model
    from specexp.models.pair import stop_ids

    pair = _pair(config, build)
    pair.check()
    pair.release_others()
    prompter = prompter_of(config, pair.load_tokenizer())
    limits = pair.longest_text(build(config.cache)), pair.switches(), pair.embedded_ids()
    return Engine(prompter, stop_ids(load_model(pair.target), prompter.tokenizer), *limits)


def open_decoder(config: DictConfig, build: Callable) -> Decoder:
    """The decoder of a checked configuration's method, which takes any sampling rule that the method works with."""
    pair = _pair(config, build)
    decoder = supplied(build(arguments_of(config.method)), Supply(pair, build(config.cache), build(config.captured_cache)))
    guard(guarded([decoder]), text_ids(pair.load_tokenizer(), SAMPLE) or [0])
    return decoder


def _pair(config: DictConfig, build: Callable) -> ModelPair:
    if config.model_pair is None:
        raise UserError(f"method={config.method.name} decodes on another server; choose one that decodes here.")
    return build(config.model_pair)
