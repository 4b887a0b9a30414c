"""Which device a name means on this machine: cuda, mps, npu (Ascend, through torch_npu) or cpu; and what is told when its memory is full.

Knows no models.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager

from specexp.errors import UserError

ORDER = ("cuda", "mps", "npu", "cpu")


def resolve_device(name: str) -> str:
    """`auto` becomes the first of `ORDER` that is here; a named one (`cuda`, `cuda:1`, ...) stays itself. UserError if it is absent."""
    if name == "auto":
        return next(kind for kind in ORDER if _count(kind))
    match = re.fullmatch(r"(cuda|mps|npu|cpu)(?::(\d+))?", name)
    if match is None:
        raise UserError(f"device={name} is unknown: choose auto, cpu, cuda, mps or npu (or one of several: cuda:1).")
    count = _count(match[1])
    if int(match[2] or 0) >= count:
        raise UserError(f"device={name} is not on this machine, which has {count} of that kind: choose device=auto or device=cpu.")
    return name


def _count(kind: str) -> int:
    import torch

    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "npu":
        return _npus()
    return 1


def _npus() -> int:
    if importlib.util.find_spec("torch_npu") is None:
        return 0
    import torch
    import torch_npu  # noqa: F401  (importing it is what adds torch.npu)

    return torch.npu.device_count() if torch.npu.is_available() else 0


@contextmanager
def memory_watched(way_out: str) -> Iterator[None]:
    """Running out of memory inside, on a device or on the CPU, becomes a UserError that ends in `way_out`."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one of the latter, as is what its CPU allocator raises
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)):
            raise
        raise UserError(f"out of memory ({(str(error).splitlines() or [type(error).__name__])[0][:200]}); {way_out}.") from error
