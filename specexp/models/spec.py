"""What to load and how: the value a configuration's `model_pair.target` and `.draft` become. Knows no torch and loads nothing.

Equal specs mean the same weights in memory, so a spec is frozen and hashable.
"""

from __future__ import annotations

from dataclasses import dataclass

from specexp.errors import UserError

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "int4")


@dataclass(frozen=True)
class ModelSpec:
    """name: a directory, a Hub id, or `asset:NAME` for a shipped model. dtype `auto`: the checkpoint's own; device `auto`: the best found.

    quantization is bitsandbytes', `int4` being nf4 with double quantisation. allow_pickle: also take `pytorch_model.bin` where there is no
    safetensors file (tensors only are unpickled). Raises UserError for an unknown dtype or quantization.
    """

    name: str
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    attn_implementation: str | None = None
    quantization: str = "none"
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("quantization", self.quantization, QUANTIZATIONS)


def _one_of(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")
