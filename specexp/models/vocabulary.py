"""How many ids a pair has: those its tokenizer knows and those its logits have rows for. Tables are checked against them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from specexp.models.pair import ModelPair, output_rows


@dataclass(frozen=True)
class Vocabulary:
    """Both are read when they are asked for: `entries` loads the tokenizer, `rows` the target's weights."""

    pair: ModelPair

    @cached_property
    def entries(self) -> int:
        """The largest id of the tokenizer, plus one."""
        return entries(self.pair.load_tokenizer())

    @cached_property
    def rows(self) -> int:
        """V of the target's logits, padding included."""
        from specexp.models.loading import load_model

        return output_rows(load_model(self.pair.target))


def entries(tokenizer) -> int:
    return max(tokenizer.get_vocab().values()) + 1
