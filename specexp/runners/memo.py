"""Which ids the slots of a cache belong to, and how many of the slots a new context can keep.

The slots hold the ids of a text, and then the nodes of the last draft that was fed. When a new context comes, the longest path through them
that agrees with it is kept. This one rule covers all cases: a rejected draft, an accepted path, a model that is some rounds behind, and
another fork of the text. For example:

    slots       A B C, then the draft's nodes x, y (two children of C) and z (a child of y)
    context     A B C y z q
    kept        A B C and the path y, z; the model has to read q only

A memo knows nothing of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft


@dataclass
class Memo:
    """The ids of a cache's slots. Slot i holds ids[i]; the first `nodes` nodes of `draft` follow in the slots after these."""

    ids: list[int] = field(default_factory=list)
    draft: Draft | None = None
    nodes: int = 0
    lineage: object = None  # of the context seen last
    agreed: int = 0  # ids[:agreed] can never differ from a context of this lineage

    def clear(self) -> None:
        self.ids, self.draft, self.nodes, self.lineage, self.agreed = [], None, 0, None, 0

    def holds(self, context: Context, draft: Draft) -> int:
        """Return how many of the first nodes of `draft` are in the slots already, directly after exactly this context."""
        grown = self.draft is not None and self.nodes and draft.extends(self.draft)
        return self.nodes if grown and self._same(context) else 0

    def rewind(self, context: Context) -> Sequence[int]:
        """Forget what does not agree with the context, and return the path of the draft's nodes that does.

        Afterwards `ids` holds the kept beginning and that path. The caller has to move the path's slots to directly after the beginning.
        """
        kept, path = self._known(context), ()
        if kept < len(self.ids):
            kept = _common(self.ids, context.ids, kept)
        if kept == len(self.ids) and self.draft is not None:
            path = _spelled(self.draft, self.nodes, context.ids, kept)
            self.ids += context.ids[kept : kept + len(path)]
        else:
            del self.ids[kept:]
        self.draft, self.nodes = None, 0
        self.lineage, self.agreed = context.lineage, context.permanent
        return path

    def truncate(self, length: int) -> None:
        """Keep only the ids of the first `length` slots. The others will be fed again, because their logits are wanted."""
        del self.ids[length:]

    def _same(self, context: Context) -> bool:
        return len(self.ids) == len(context) and _common(self.ids, context.ids, self._known(context)) == len(context)

    def _known(self, context: Context) -> int:
        """Return how many of the first ids need no comparison, because they are permanent in this context and in the one seen last, and
        both grew from the same prompt."""
        return min(self.agreed, context.permanent, len(self.ids)) if context.lineage is self.lineage else 0


def _common(ours: Sequence[int], theirs: Sequence[int], start: int) -> int:
    """Return the length of the common beginning, which is known to be at least `start`."""
    end = min(len(ours), len(theirs))
    while start < end and ours[start] == theirs[start]:
        start += 1
    return start


def _spelled(draft: Draft, nodes: int, ids: list[int], position: int) -> Sequence[int]:
    """Return the longest path through the first `nodes` nodes whose tokens are those of ids[position:]."""
    if draft.is_chain:
        return range(_common(draft.ids[:nodes], ids[position : position + nodes], 0))
    path: list[int] = []
    node = ROOT
    while position < len(ids):
        following = (c for c in draft.children(node) if c < nodes and draft.ids[c] == ids[position])
        if (child := next(following, None)) is None:
            break
        path.append(child)
        node, position = child, position + 1
    return path
