"""The text from which the shipped tiny models learn: its tokenizer, and batches that depend on (seed, step) alone.

A batch is the same on every machine with the same Python library sources, and no batch holds an evaluation task (grammar.py's rule). This
module knows nothing of models and training.
"""
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from specexp.training.articles import training_article
from specexp.training.grammar import Task, training_function

END = "<|endoftext|>"
PROMPT_WEIGHT, LIBRARY_WEIGHT, CONSTANT_WEIGHT = 0.1, 0.2, 4  # in the loss; other tokens of solutions and summaries weigh 1
# newlines | indentation by fours | a word with its space | an underscore with its word | one digit | a sign with its space
PIECES = r"\n+|(?: {4})+| ?[A-Za-z]+|_[A-Za-z]*|[0-9]| ?[^\sA-Za-z0-9_]+|\s"
SKIPPED = {"test", "tests", "idle_test", "site-packages", "lib2to3", "ensurepip", "turtledemo", "encodings", "pydoc_data", "__pycache__"}


def library_sources(limit: int | None = None) -> list[str]:
    """The standard library's .py files without tests and tables, in path order (the first `limit` of them)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in root.rglob("*.py") if not SKIPPED & set(path.relative_to(root).parts))
    return [path.read_text(encoding="utf-8", errors="ignore").expandtabs(4) for path in paths[:limit]]


def function_document(rng: random.Random, count: int) -> list[str]:
    """`count` tasks in the pieces that a model is given: prompts and solutions tokenised apart, with blank lines between tasks."""
    pieces = []
    for left in reversed(range(count)):
        task = training_function(rng)
        pieces += [task.prompt, task.solution + ("\n\n" if left else "")]
    return pieces


def article_document(rng: random.Random) -> list[str]:
    """One article and its summary, in pieces of the same kind."""
    article = training_article(rng)
    return [article.prompt, f" {article.summary}"]


def training_texts(sources: list[str], count: int, seed: int) -> Iterator[str]:
    """The texts from which the tokenizer learns: the library sources, and `count` documents of each other kind."""
    yield from sources
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(count):
        yield "".join(function_document(rng, rng.randint(1, 5)))
        yield "".join(article_document(rng))


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose decode(encode(text)) is text. Each digit is a token; `END` is bos, eos and pad, and is never added by itself.
    """
    tokenizer = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END,
                                   model_max_length=16384, clean_up_tokenization_spaces=False)


class Corpus:
    """Token ids for training, in batches with the weight that every token has in the loss.

    What follows from a prompt has the greatest weight: invented names and numbers cannot be predicted, and their gradients would outweigh
    the rest. Digits and single letters weigh more still, because copying them from the prompt is what small models learn last.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, sources: list[str], seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        self.end = tokenizer.eos_token_id
        vocabulary = tokenizer.get_vocab().items()
        self.constants = {index for token, index in vocabulary if len(token) == 1 and token.isascii() and token.isalnum()}
        self.library = [token for ids in tokenizer(sources)["input_ids"] for token in [*ids, self.end]]

    def singles(self, step: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and weights of about `tokens` tokens in all: rows of one task each, or of one article each; padding has no weight."""
        rng = random.Random(f"{self.seed}/{step}")
        length = rng.choice((96, 96, 96, 192))  # nearly all tasks fit into 96 tokens, articles into 192
        rows = []
        for _ in range(max(1, tokens // length)):
            row = self._weighted(article_document(rng) if length == 192 else function_document(rng, 1))
            rows.append((row + [(self.end, 0)] * length)[:length])
        return self._tensors(rows)

    def mixed(self, step: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and weights, each (rows, length): documents of all kinds one after another, or a part of the library."""
        rng = random.Random(f"{self.seed}/{step}")
        return self._tensors([self._row(rng, length) for _ in range(rows)])

    def prompts(self, step: int, rows: int) -> torch.Tensor:
        """Prompts of `rows` tasks that have equally many tokens: shape (rows, tokens), without padding."""
        rng, buckets = random.Random(f"{self.seed}/{step}/prompts"), {}
        while True:
            task: Task = training_function(rng)
            ids = self.tokenizer(task.prompt)["input_ids"]
            bucket = buckets.setdefault(len(ids), [])
            bucket.append(ids)
            if len(bucket) == rows:
                return torch.tensor(bucket)

    def _row(self, rng: random.Random, length: int) -> list[tuple[int, float]]:
        """`length` pairs of token id and weight."""
        if rng.random() < 0.2:
            start = rng.randrange(len(self.library) - length)
            return [(token, LIBRARY_WEIGHT) for token in self.library[start:start + length]]
        row = []
        while len(row) < length:
            row += self._weighted(article_document(rng) if rng.random() < 0.35 else function_document(rng, rng.choice((1, 1, 2, 2, 3, 5))))
        return row[:length]

    def _weighted(self, document: list[str]) -> list[tuple[int, float]]:
        """Pairs of token id and weight: prompts and answers alternate; the end token belongs to the last answer."""
        weighted = []
        for index, ids in enumerate(self.tokenizer(document)["input_ids"]):
            answer = index % 2
            weighted += [(token, (CONSTANT_WEIGHT if token in self.constants else 1) if answer else PROMPT_WEIGHT) for token in ids]
        return [*weighted, (self.end, 1)]

    def _tensors(self, rows: list[list[tuple[int, float]]]) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = torch.tensor(rows)
        return pairs[..., 0].long(), pairs[..., 1]
