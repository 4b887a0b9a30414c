"""Models from a spec: in evaluation mode, without gradients, on their device, once per process.

Knows transformers' loaders and nothing of decoding. Decoder-only models and the T5 family.
The memo keeps up to 16 models, so that baseline, method and the jobs of a sweep share weights; treat them as read-only.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from functools import lru_cache

from specexp.errors import UserError
from specexp.models.device import resolve_device
from specexp.models.explain import explained
from specexp.models.preflight import locate, offline_where_possible, preflight
from specexp.models.spec import ModelSpec

__all__ = ["ModelSpec", "context_length", "load_config", "load_model", "preflight", "resolved"]

ENCODER_DECODER = ("t5", "mt5")  # model types tested against transformers' own text (tests/test_encoder_decoder.py)
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def load_model(spec: ModelSpec, key: str = "model_pair.target"):
    """The transformers model of `spec`; the same object for the same spec. Raises UserError if it cannot be had or does not fit."""
    preflight(spec, key)
    return _load(resolved(spec, key))


def load_config(spec: ModelSpec, key: str = "model_pair.target"):
    """The transformers configuration of `spec`, without its weights."""
    from transformers import AutoConfig

    preflight(spec, key)
    files = spec.files
    with explained(files.name), offline_where_possible(_place(files), files.trust_remote_code):
        config = AutoConfig.from_pretrained(**_where(files))
    if not spec.is_standin:
        return config
    from specexp.models.standin import standin_config

    return standin_config(config, spec.shape, f"{key}.shape")


def resolved(spec: ModelSpec, key: str = "model_pair.target") -> ModelSpec:
    """`spec` with its device found. UserError if that device, or the CUDA that quantisation needs, is absent."""
    device = resolve_device(spec.device)
    if spec.quantization != "none" and not device.startswith("cuda"):
        raise UserError(f"{key}.quantization={spec.quantization} needs CUDA, and the device is {device}: set {key}.quantization=none.")
    return replace(spec, device=device)


def context_length(config) -> int | None:
    """The number of positions the model of `config` has; None where its positions are relative (ALiBi, T5) and have no end."""
    config = config.get_text_config(decoder=True)
    if _relative(config):
        return None
    lengths = (getattr(config, key, None) for key in LENGTH_KEYS)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def _relative(config) -> bool:
    attention = getattr(config, "attn_config", None) or {}  # MPT's; a dict or a configuration of its own
    alibi = attention.get("alibi") if isinstance(attention, dict) else getattr(attention, "alibi", False)
    biased = alibi or getattr(config, "alibi", False) or hasattr(config, "relative_attention_num_buckets")
    return bool(biased) or config.model_type == "bloom"


@lru_cache(maxsize=16)
def _load(spec: ModelSpec):
    import torch

    build = _build_standin if spec.is_standin else _build
    try:
        return build(spec)
    except torch.OutOfMemoryError:
        pass  # leaving the handler first: its traceback holds the half-loaded weights
    _load.cache_clear()  # the models of a sweep's earlier pair may be in the way
    gc.collect()
    try:
        return build(spec)
    except torch.OutOfMemoryError:
        way_out = "give it dtype=bfloat16" if spec.is_standin else "give it dtype=bfloat16, quantization=int8 or device_map=auto"
        raise UserError(f"{spec.name} does not fit on {spec.device}: {way_out}.") from None


def _build(spec: ModelSpec):
    # Without this, transformers asks the Hub's conversion service to rewrite pickled weights, in a thread that would run beside the timing.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with explained(spec.name), offline_where_possible(_place(spec), spec.trust_remote_code):
        model, report = _family(spec).from_pretrained(**_where(spec), **_how(spec), output_loading_info=True)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would fill them with noise and warn
        raise UserError(f"{spec.name} has no weights for {len(missing)} parameters ({missing[0]}, ...): so it is no whole model.")
    if _device_map(spec) is None:
        model.to(spec.device)
    return model.eval().requires_grad_(False)


def _build_standin(spec: ModelSpec):
    from specexp.models.standin import grow

    small = _build(spec.files)
    dtype = small.config.dtype if spec.dtype == "auto" else _dtype(spec)
    return grow(small, spec.shape, dtype, spec.device, attention=spec.attn_implementation)


def _family(spec: ModelSpec):
    """The loader of the model's kind."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(**_where(spec))
    check_family(config, spec.name)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def check_family(config, name: str) -> None:
    """UserError for an encoder-decoder model whose decoder is not called the way T5's is."""
    if config.is_encoder_decoder and config.model_type not in ENCODER_DECODER:
        known, kind = " or ".join(ENCODER_DECODER), config.model_type
        raise UserError(f"{name} is an encoder-decoder model ({kind}) that cannot run: choose one of {known}, or a decoder-only one.")


def _place(spec: ModelSpec) -> str:
    return locate(spec.name, "model_pair.target")


def _where(spec: ModelSpec) -> dict:
    return {
        "pretrained_model_name_or_path": _place(spec),
        "revision": spec.revision or "main",
        "trust_remote_code": spec.trust_remote_code,
    }


def _how(spec: ModelSpec) -> dict:
    settings = {
        "dtype": _dtype(spec),
        "use_safetensors": None if spec.allow_pickle else True,
        "attn_implementation": spec.attn_implementation,
        "device_map": _device_map(spec),
        "quantization_config": _quantization(spec),
    }
    return {key: value for key, value in settings.items() if value is not None}


def _dtype(spec: ModelSpec):
    import torch

    return spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)


def _device_map(spec: ModelSpec) -> str | None:
    """bitsandbytes quantises while it places, so a quantised model cannot be moved afterwards."""
    return spec.device_map or (spec.device if spec.quantization != "none" else None)


def _quantization(spec: ModelSpec):
    if spec.quantization == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if spec.dtype == "auto" else _dtype(spec)  # the default, float32, would be several times slower
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute)

