"""transformers' early exit: the target's own first layers draft (LayerSkip, arXiv:2404.16710). It is meant for models that were trained to
be left early; with other models the drafts are bad, and the text is still the target's own.

transformers runs fewer layers by lowering `config.num_hidden_layers` while it drafts. Only some models read that number on each pass (the
Llama family); others would draft with all of their layers, so they are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from specexp.errors import UserError
from specexp.peers.assisted import AssistantKnobs
from specexp.peers.onnx_conversion import refuse_before_it_works
from specexp.peers.request import SharedModel


@dataclass(frozen=True)
class ExitKnobs:
    """layers: `assistant_early_exit`, how many of the target's layers draft; None: half of them. The others are those of AssistantKnobs."""

    layers: int | None = None
    gamma: int = 20
    confidence_threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers={self.layers} leaves none to draft with; give 1 or more.")
        self.drafting()

    def drafting(self) -> AssistantKnobs:
        return AssistantKnobs(self.gamma, "constant", self.confidence_threshold)


@dataclass
class EarlyExit:
    """Candidates from the target's first layers. Raises UserError where transformers cannot leave the target early, or only at its last
    layer.
    """

    target: SharedModel
    knobs: ExitKnobs = field(default_factory=ExitKnobs)

    def __post_init__(self) -> None:
        config = self.target.model.config
        if config.is_encoder_decoder:
            raise UserError(f"transformers cannot leave a {config.model_type} model early; choose a Llama, or another method.")
        refuse_before_it_works("leaving a model early whose configuration lists its layers", bool(getattr(config, "layer_types", None)))
        self._layers = max(1, config.num_hidden_layers // 2) if self.knobs.layers is None else self.knobs.layers
        if self._layers >= config.num_hidden_layers:
            raise UserError(f"layers={self._layers} are all that the target has, so its draft would cost as much as itself; give fewer.")
        with lowered(self.target.model, self._layers):
            run = layers_run(self.target.model)
        if run != self._layers:
            raise UserError(
                f"transformers cannot leave a {config.model_type} model early (it ran {run} layers instead of {self._layers}); "
                "choose a target of the Llama family, or another method."
            )
        self.models = {"early_exit": SharedModel(FirstLayers(self.target.model, self._layers))}

    def settings(self) -> dict[str, object]:
        """The setting for the call alone: a draft that found it among the target's own settings would itself use an early exit, and so on.
        """
        return {"assistant_early_exit": self._layers}

    def defaults(self) -> dict[str, object]:
        """The draft's settings, which it reads on the target, since both are one model."""
        return self.knobs.drafting().settings()

    def arguments(self) -> dict[str, object]:
        return {}

    @contextmanager
    def lent(self, ends: Sequence[int]) -> Iterator[None]:
        """Restores the number of layers at the end, since transformers leaves it lowered where a draft fails."""
        with lowered(self.target.model, self.target.model.config.num_hidden_layers):
            yield


@dataclass(frozen=True)
class FirstLayers:
    """The part of the target that drafts, for callers that ask what a pass of it costs."""

    model: torch.nn.Module
    layers: int

    @property
    def config(self) -> object:
        return self.model.config

    def num_parameters(self) -> int:
        beyond = list(stack(self.model))[self.layers :]
        return self.model.num_parameters() - sum(parameter.numel() for layer in beyond for parameter in layer.parameters())


@contextmanager
def lowered(model: torch.nn.Module, layers: int) -> Iterator[None]:
    """Gives the model's configuration this number of layers inside the block."""
    held = model.config.num_hidden_layers
    model.config.num_hidden_layers = layers
    try:
        yield
    finally:
        model.config.num_hidden_layers = held


@torch.inference_mode()
def layers_run(model: torch.nn.Module) -> int:
    """How many layers a pass over one token goes through."""
    passed: list[int] = []
    hooks = [layer.register_forward_hook(lambda *_, place=place: passed.append(place)) for place, layer in enumerate(stack(model))]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return len(passed)


def stack(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The list of the model's layers, in order."""
    return max((module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
