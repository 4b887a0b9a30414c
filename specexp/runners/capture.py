"""How a pass of fixed shape is launched: as it stands, or captured once as a CUDA graph and replayed.

A program reads its inputs from tensors that it owns and gives its output in one; nothing in it may wait for the device. Knows nothing of
models. Does not promise that capturing pays where launches are hidden behind the work anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from specexp.errors import UserError

Program = Callable[[], Tensor]
WARM_UPS = 3  # runs before a capture: libraries choose their kernels and allocate their workspaces in the first ones


class Capture(Protocol):
    """Makes a program launchable. `made`: how many it has made so far."""

    made: int

    def __call__(self, program: Program) -> Program: ...


class Uncaptured:
    """Every launch runs the program: the same logic on any device."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, program: Program) -> Program:
        self.made += 1
        return program


class Graphs:
    """One CUDA graph per program, all of them in one pool of memory. device: the models', which need not be the current one."""

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
    """name: "auto" (graphs on CUDA), "graphs" or "none". UserError for graphs elsewhere and for other names."""
    if name not in ("auto", "graphs", "none"):
        raise UserError(f"cache.capture={name} is unknown; give auto, graphs or none.")
    if name == "graphs" and device.type != "cuda":
        raise UserError(f"cache.capture=graphs needs a CUDA device and the models are on {device}; give cache.capture=auto.")
    return Graphs(device) if device.type == "cuda" and name != "none" else Uncaptured()
