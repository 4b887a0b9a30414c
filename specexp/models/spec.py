"""A model's spec says what to load and how: it is what `model_pair.target` and `model_pair.draft` of a configuration become.

Equal specs mean the same weights in memory, so a spec is frozen and hashable. This module knows no torch and loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from specexp.errors import UserError

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "int4")
WEIGHTS = ("real", "standin")


@dataclass(frozen=True)
class LlamaShape:
    """The size of a Llama; None: not known. intermediate: the width of the feed-forward layer. vocab: the rows of the embedding, and of
    the output projection where both are one matrix (tied).

    A model of another architecture is described by the Llama whose weights take as many bytes.
    """

    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab: int | None = None
    tied: bool = False

    @property
    def unknown(self) -> list[str]:
        """The names of the numbers that are not given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is None]

    @property
    def parameters(self) -> int:
        """How many parameters a Llama of this shape has."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + (1 if self.tied else 2) * self.vocab * self.hidden


@dataclass(frozen=True)
class ModelSpec:
    """name: a directory, a Hub id, or `asset:NAME` for a shipped model. dtype `auto` is the checkpoint's own, device `auto` the best one
    found.

    quantization is that of bitsandbytes; `int4` is nf4 with double quantisation. allow_pickle: also take `pytorch_model.bin` where there
    is no safetensors file (nothing but tensors is unpickled). gguf_file: the file of that name in `name`, in llama.cpp's format, whose
    weights are unpacked to `dtype`. context_length: how many tokens a text may have, in place of what config.json says.

    `name` may also be the adapter of a fine-tuned model (PEFT): its base model is loaded and the adapter merged into it.

    weights `standin`: nothing of `name` is loaded; instead a Llama of the given shape is made that computes what the small model
    `grown_from` computes (standin.py), with the small model's tokenizer. device_map, revision and whatever else concerns the files of
    `name` have no effect then. Raises UserError for an unknown dtype, quantization or kind of weights.
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
    gguf_file: str | None = None
    context_length: int | None = None
    weights: str = "real"
    grown_from: str | None = None
    shape: LlamaShape | None = None

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("model_pair.weights", self.weights, WEIGHTS)
        if self.gguf_file is not None and self.quantization != "none":
            raise UserError(f"quantization={self.quantization} does not go with gguf_file={self.gguf_file}; leave one of the two out.")
        if self.context_length is not None and self.context_length < 1:
            raise UserError(f"context_length={self.context_length} leaves no room for a text; give 1 or more, or null for the model's own.")

    @property
    def is_standin(self) -> bool:
        return self.weights == "standin"

    @property
    def files(self) -> ModelSpec:
        """The spec of the model whose files are read: this one, or the one that a stand-in is grown from (in float32, on the CPU)."""
        return ModelSpec(self.grown_from or "???", dtype="float32", device="cpu") if self.is_standin else self


def _one_of(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")
