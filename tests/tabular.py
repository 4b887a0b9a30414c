"""Toy language models given by a table, and Draws that enumerate every outcome with its exact probability."""

import itertools
import math
from collections import defaultdict

import torch

from specexp.decoding.draft import Draft, empty_draft
from specexp.decoding.protocols import Facts, Usage
from specexp.decoding.sampling import Draws


class TabularRunner:
    """A runner with logits = table[last two ids], in float64. It depends on the history and keeps no state."""

    def __init__(self, seed, vocab=3, scale=1.5, zeros=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.facts = Facts("none", torch.device("cpu"), trees=True, cache_exact=True)
        self.vocab, self.forwards, self.keeps_states = vocab, 0, False
        self._earlier = 0
        self.table = scale * torch.randn(vocab + 1, vocab, vocab, generator=generator, dtype=torch.float64)
        self.table[torch.rand(self.table.shape, generator=generator) < zeros] = float("-inf")
        self.table[..., 0].nan_to_num_(neginf=0.0)

    def start(self, prompt, max_new_tokens):
        self._earlier = self.forwards
        return list(prompt)

    def usage(self):
        return Usage(self.forwards - self._earlier)

    def keep_states(self):
        self.keeps_states = True

    def states(self, context):
        """[len(context) - 1, 2]: of each token the id before it (`vocab` before the first) and its own."""
        assert self.keeps_states
        ids = context.ids[:-1]
        return torch.tensor([*zip([self.vocab, *ids], ids, strict=False)], dtype=torch.float64).reshape(-1, 2)

    def describe(self):
        return "a table"

    def room(self, context):
        return None

    def ready(self, width):
        return True

    def ready_to_draft(self, length, draws):
        return True

    def at(self, ids):
        return self.table[ids[-2] if len(ids) > 1 else self.vocab, ids[-1]]

    def logits(self, context, draft, rows):
        self.forwards += 1
        nodes = range(len(draft) - rows, len(draft))
        texts = [context.ids + [draft.ids[n] for n in draft.path(node)] for node in nodes]
        return torch.stack([self.at(ids) for ids in texts])

    def rollout(self, context, length, draws, proceeds=None):
        draft, q = empty_draft(), []
        while len(draft) < length:
            logits = self.logits(context, draft, 1)
            token, law = draws.token(logits)
            draft = Draft.chain(torch.cat([draft.tokens, token]))
            q.append(law)
            if proceeds is not None and len(draft) < length and not proceeds(len(draft), logits[0], token[0], draws):
                break
        return Draft.chain(draft.tokens, None if not q or q[0] is None else torch.cat(q))


class Replay(Draws):
    """Takes the scripted choice at each point of chance; past the script the first one, remembering what else was possible.

    What was taken is kept in lists, so that it is one history for `greedily` and whatever else shares these draws.
    """

    def __init__(self, sampling, script):
        super().__init__(sampling)
        self.script, self.taken, self.weights, self.pending = script, [], [], []

    @property
    def weight(self):
        return math.prod(self.weights)

    def _choose(self, probabilities):
        options = [i for i, probability in enumerate(probabilities) if probability > 0]
        index = len(self.taken)
        if index < len(self.script):
            choice = self.script[index]
        else:
            choice = options[0]
            self.pending += [[*self.taken, other] for other in options[1:]]
        self.taken.append(choice)
        self.weights.append(probabilities[choice])
        return choice

    def accept(self, p, q):
        chances = [min(1.0, a / b) if b > 0 else float(a > 0) for a, b in zip(p.reshape(-1).tolist(), q.reshape(-1).tolist(), strict=True)]
        return torch.tensor([bool(self._choose([1 - c, c])) for c in chances]).reshape(p.shape)

    def uniform(self, *shape):
        raise NotImplementedError("a number between 0 and 1 has no list of outcomes")

    def draw(self, weights):
        rows = weights.reshape(-1, weights.shape[-1])
        return torch.tensor([self._choose((row / row.sum()).tolist()) for row in rows]).reshape(weights.shape[:-1])


def law_of(run, sampling):
    """{outcome: probability} of run(draws) over all randomness, exact up to float64 rounding."""
    law, scripts = defaultdict(float), [[]]
    while scripts:
        draws = Replay(sampling, scripts.pop())
        law[run(draws)] += draws.weight
        scripts += draws.pending
    return law


def completed(law, runner, sampling, prompt, length):
    """The distribution of texts of exactly `length` ids: shorter outcomes are continued as the target itself would continue them."""
    full = defaultdict(float)
    for ids, weight in law.items():
        for rest in itertools.product(range(runner.vocab), repeat=length - len(ids)):
            probability, text = weight, list(prompt) + list(ids)
            for token in rest:
                probability *= float(sampling(runner.at(text))[token])
                text.append(token)
            full[tuple(ids) + rest] += probability
    return full


def total_variation(a, b):
    return 0.5 * sum(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in set(a) | set(b))
