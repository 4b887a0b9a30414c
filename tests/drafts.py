"""Random drafts, and a walk of a runner over them."""

import torch
from tiny_models import VOCAB

from specexp.decoding.draft import ROOT, Draft


def random_draft(rng, nodes, tree):
    tokens = torch.tensor([rng.randrange(VOCAB) for _ in range(nodes)], dtype=torch.int64)
    if not tree:
        return Draft.chain(tokens)
    return Draft(tokens, tuple(rng.randrange(ROOT, i) for i in range(nodes)))


def walk(rng, draft):
    """A random path of the draft, so that the next context keeps a part of it."""
    path, node = [], ROOT
    while (children := draft.children(node)) and rng.random() < 0.7:
        node = rng.choice(children)
        path.append(draft.ids[node])
    return path
