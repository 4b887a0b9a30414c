"""What the slots of a cache spell, and how much of it a new context can keep.

Slots are a chain of committed ids, then the nodes of the last draft that was fed. This is the one place where a rejected
draft, an accepted path, a lagging model or another fork of the text is told from the others: keep the longest path that
spells the new context. Knows nothing of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft


@dataclass
class Memo:
    ids: list[int] = field(default_factory=list)  # slot i holds ids[i]
    draft: Draft | None = None  # whose first `nodes` nodes follow in the slots behind
    nodes: int = 0
    lineage: object = None
    agreed: int = 0  # ids[:agreed] can never differ from a context of this lineage

    def clear(self) -> None:
        self.ids, self.draft, self.nodes, self.lineage, self.agreed = [], None, 0, None, 0

    def holds(self, context: Context, draft: Draft) -> int:
        """How many leading nodes of `draft` are in the slots already, right behind exactly this context."""
        grown = self.draft is not None and self.nodes and draft.extends(self.draft)
        return self.nodes if grown and self._same(context) else 0

    def rewind(self, context: Context) -> Sequence[int]:
        """Forget what does not spell the context, and return the draft's nodes that still do, as a path.

        Afterwards `ids` holds the kept prefix and that path; the caller moves the path's slots behind the prefix.
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
        """Keep only the first `length` slots' ids (their logits are asked for again)."""
        del self.ids[length:]

    def _same(self, context: Context) -> bool:
        return len(self.ids) == len(context) and _common(self.ids, context.ids, self._known(context)) == len(context)

    def _known(self, context: Context) -> int:
        """Leading ids that need no comparison: permanent in this context and in the one seen last, both of one trunk."""
        return min(self.agreed, context.permanent, len(self.ids)) if context.lineage is self.lineage else 0


def _common(ours: Sequence[int], theirs: Sequence[int], start: int) -> int:
    """Length of the common prefix, known to be at least `start`."""
    end = min(len(ours), len(theirs))
    while start < end and ours[start] == theirs[start]:
        start += 1
    return start


def _spelled(draft: Draft, nodes: int, ids: list[int], position: int) -> Sequence[int]:
    """The path of the first `nodes` nodes that spells ids[position:] furthest."""
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
