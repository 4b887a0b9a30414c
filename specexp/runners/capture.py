"""How a pass of fixed shape is launched: run as it is, or captured once as a CUDA graph and replayed.

A program is a function without arguments that reads its inputs from fixed tensors and returns its output in one. Nothing in it may wait for
the device. A replayed graph launches all of its kernels at once, which saves time where a pass is so small that launching its kernels takes
longer than running them; where it is not, capturing gains nothing. This module knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from specexp.errors import UserError

Program = Callable[[], Tensor]
WARM_UPS = 3  # runs before a capture, in which libraries choose their kernels and allocate their workspaces


class Capture(Protocol):
    """Turns a program into one that is launched. made: how many programs it has turned so far."""

    made: int

    def __call__(self, program: Program) -> Program: ...


class Uncaptured:
    """Leaves programs as they are, so that every launch runs the program. This works on any device."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, program: Program) -> Program:
        self.made += 1
        return program


class Graphs:
    """Captures each program as a CUDA graph. All graphs share one pool of memory. device: the device of the models, which need not be
    torch's current one."""

    def __init__(self, device: torch.device) -> None:
        self.made = 0
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, program: Program) -> Program:
        self.made += 1
        with torch.cuda.device(self._device):
            graph, output = self._captured(program)

        def launch() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return output

        return launch

    def _captured(self, program: Program) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                program()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=aside):
            output = program()
        return graph, output


def capture_for(name: str, device: torch.device) -> Capture:
    """Return the way of launching called `name`: "graphs", "none", or "auto", which is graphs on CUDA and none elsewhere. Raises UserError
    for graphs on another device and for other names."""
    if name not in ("auto", "graphs", "none"):
        raise UserError(f"cache.capture={name} is unknown; give auto, graphs or none.")
    if name == "graphs" and device.type != "cuda":
        raise UserError(f"cache.capture=graphs needs a CUDA device and the models are on {device}; give cache.capture=auto.")
    return Graphs(device) if device.type == "cuda" and name != "none" else Uncaptured()
