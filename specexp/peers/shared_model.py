"""A model whose weights are ours and whose passes a peer makes: what a record wants to know of it, and how nothing is left behind on it.

Counts nothing itself: the peer's decoder knows how many passes its loop made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from specexp.errors import UserError
from specexp.models.runner import ModelRunner, StatelessRunner


@dataclass
class SharedModel:
    """model: in eval mode. forwards: passes since construction. kv_bytes: of the latest request, its cache at its fullest.

    own: attributes that the peer has set on the model, kept here between requests.
    """

    model: torch.nn.Module
    forwards: int = field(default=0, init=False)
    kv_bytes: int = field(default=0, init=False)
    cache_exact: bool = field(default=True, init=False)
    tokens_evicted: int = field(default=0, init=False)
    own: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def lent(self, **attributes: object) -> Iterator[None]:
        """The model with `attributes` and those of earlier requests. Whatever is set on it meanwhile is taken off again and kept for the
        next request (the peer's compiled call, its cache's size), also when the request fails."""
        namespace, before = self.model.__dict__, dict(self.model.__dict__)
        namespace.update(self.own | attributes)
        try:
            yield
        finally:
            changed = {key: value for key, value in namespace.items() if key not in before or before[key] is not value}
            for key in changed:
                del namespace[key]
            namespace.update({key: before[key] for key in changed if key in before})
            self.own = {key: value for key, value in changed.items() if key not in attributes}


def shared_model(runner: ModelRunner | StatelessRunner) -> SharedModel:
    """The runner's model; its cache is not used, as a peer brings its own. UserError for a cache that changes the model: no peer has it."""
    if not runner.cache_exact:
        raise UserError(f"{type(runner).__name__} changes the model, and no other engine knows such a cache; choose cache=full.")
    return SharedModel(runner.model)
