"""This module loads models from a spec, in evaluation mode and without gradients. A model is loaded once as long as its pair is in use, so
that the baseline, the method and the jobs of a sweep share its weights: treat them as read-only.

It knows decoder-only models and the T5 family. What transformers' loaders refuse becomes one sentence about the model that was named. The
last part finds the device that a name means on this machine (cuda, mps, npu through torch_npu, or cpu), says what to do when its memory is
full, and sets how many threads torch computes with. This module knows nothing of decoding.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

from specexp.errors import UserError
from specexp.models.preflight import base_of, locate, offline_where_possible, preflight
from specexp.models.spec import ModelSpec

__all__ = ["ModelSpec", "load_config", "load_model", "preflight", "resolved"]

TARGET = "model_pair.target"
_loaded: dict[ModelSpec, object] = {}  # by spec with its device found
_in_use: dict[str, ModelSpec] = {}  # the pair in use, by key
ENCODER_DECODER = ("t5", "mt5")  # model types tested against transformers' own text (tests/runners/test_encoder_decoder.py)


def load_model(spec: ModelSpec, key: str = "model_pair.target"):
    """Loads the transformers model of `spec`; the same spec gives the same object. Raises UserError if the model cannot be had or does not
    fit.
    """
    preflight(spec, key)
    found = resolved(spec, key)
    if found not in _loaded:
        _loaded[found] = _load(found)
    return _loaded[found]


def keep_only(models: Mapping[str, ModelSpec]) -> bool:
    """Keeps the models of the pair in use and gives up all others; returns whether that is another pair than before.

    models: the specs by their keys, model_pair.target and others. A method without a draft model does not name it, so as long as the
    target stays the same, what the pair had in a part (`draft`, `drafts`) that is not named now stays too.
    """
    now = {key: resolved(spec, key) for key, spec in models.items()}
    another = _in_use.get(TARGET) != now.get(TARGET)
    named = {_part(key) for key in now}
    before = {} if another else {key: spec for key, spec in _in_use.items() if _part(key) not in named}
    _in_use.clear()
    _in_use.update(before | now)
    _forget_others()
    return another


def _part(key: str) -> str:
    """The part of the pair that a key belongs to: model_pair.drafts.small belongs to drafts."""
    return key.split(".")[1]


def _forget_others() -> None:
    kept = set(_in_use.values())
    others = [spec for spec in _loaded if spec not in kept]
    for spec in others:
        del _loaded[spec]
    if others:
        import torch

        gc.collect()  # objects that a finished job left may still refer to them in a cycle
        torch.cuda.empty_cache()


def load_config(spec: ModelSpec, key: str = "model_pair.target"):
    """The transformers configuration of `spec`, without its weights."""
    from transformers import AutoConfig

    preflight(spec, key)
    files = base_of(spec.files, key) or spec.files
    with explained(files.name), offline_where_possible(_place(files), files.trust_remote_code):
        config = AutoConfig.from_pretrained(**_where(files))
    if not spec.is_standin:
        return config
    from specexp.models.standin import standin_config

    return standin_config(config, spec.shape, f"{key}.shape")


def resolved(spec: ModelSpec, key: str = "model_pair.target") -> ModelSpec:
    """`spec` with its device found. Raises UserError if that device is absent, or the CUDA that quantisation needs."""
    device = resolve_device(spec.device)
    if spec.quantization != "none" and not device.startswith("cuda"):
        raise UserError(
            f"{key}.quantization={spec.quantization} needs CUDA, and the device is {device}: set {key}.quantization=none, and "
            "dtype=bfloat16 if memory is short."
        )
    return replace(spec, device=device)


def _load(spec: ModelSpec):
    import torch

    build = _build_standin if spec.is_standin else _build
    try:
        return build(spec)
    except torch.OutOfMemoryError:
        pass  # the handler must end first, because its traceback holds the half-loaded weights
    _forget_others()
    gc.collect()
    try:
        return build(spec)
    except torch.OutOfMemoryError:
        way_out = "give it dtype=bfloat16" if spec.is_standin else "give it dtype=bfloat16, quantization=int8 or device_map=auto"
        raise UserError(f"{spec.name} does not fit on {spec.device}: {way_out}.") from None


def _build(spec: ModelSpec):
    from transformers.utils.logging import disable_progress_bar

    # Without this, transformers asks the Hub's conversion service to rewrite pickled weights, in a thread that would run beside the timing.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    adapter, spec = spec, base_of(spec, TARGET) or spec
    if not sys.stderr.isatty():  # a bar in a log is noise
        disable_progress_bar()
    with explained(spec.name), offline_where_possible(_place(spec), spec.trust_remote_code):
        # Weights of another shape are let through here so that they are told in a sentence below.
        model, report = _family(spec).from_pretrained(
            **_where(spec), **_how(spec), ignore_mismatched_sizes=True, output_loading_info=True
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise UserError(
            f"{spec.name}: {name} is {list(found)} and its config.json asks for {list(wanted)}, so weights and config.json belong to "
            "different models; copy it again, or give another one."
        )
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would fill them with random numbers and only warn
        raise UserError(
            f"{spec.name} has no weights for {len(missing)} parameters ({missing[0]}, ...), so the model is incomplete; "
            "copy it again, or give another one."
        )
    if spec.gguf_file is not None:  # its weights are plain tensors now, and nothing may take them for packed ones
        vars(model.config).pop("quantization_config", None)
        model.hf_quantizer, model.is_quantized = None, False
    if adapter != spec:
        model = _merged(model, adapter)
    if _device_map(spec) is None:
        model.to(spec.device)
    return model.eval().requires_grad_(False)


def _merged(model, adapter: ModelSpec):
    """The model with the adapter's changes added to its weights, so that it is as fast as any other of its kind."""
    from peft import PeftModel

    with explained(adapter.name), offline_where_possible(_place(adapter), trust_remote_code=False):
        try:
            return PeftModel.from_pretrained(model, _place(adapter), revision=adapter.revision).merge_and_unload()
        except RuntimeError as error:  # torch's, where shapes differ
            if is_out_of_memory(error):
                raise
            raise ValueError(f"it does not fit its base model ({' '.join(str(error).split())[:160]})") from error


def _build_standin(spec: ModelSpec):
    from specexp.models.standin import grow

    small = _build(spec.files)
    dtype = small.config.dtype if spec.dtype == "auto" else _dtype(spec)
    return grow(small, spec.shape, dtype, spec.device, attention=spec.attn_implementation)


def _family(spec: ModelSpec):
    """The class of transformers that loads this kind of model."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(**_where(spec))
    check_family(config, spec.name)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def check_family(config, name: str) -> None:
    """Raises UserError for an encoder-decoder model whose decoder is not called the way T5's is."""
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
    } | ({"gguf_file": spec.gguf_file} if spec.gguf_file else {})


def _how(spec: ModelSpec) -> dict:
    settings = {
        "dtype": _dtype(spec),
        "use_safetensors": None if spec.allow_pickle or spec.gguf_file else True,
        "attn_implementation": spec.attn_implementation,
        "device_map": _device_map(spec),
        "quantization_config": _quantization(spec),
    }
    return {key: value for key, value in settings.items() if value is not None}


def _dtype(spec: ModelSpec):
    import torch

    return spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)


def _device_map(spec: ModelSpec) -> str | None:
    """The device map to load with. bitsandbytes quantises while it places weights, so a quantised model cannot be moved afterwards."""
    return spec.device_map or (spec.device if spec.quantization != "none" else None)


def _quantization(spec: ModelSpec):
    if spec.gguf_file is not None:
        from transformers import GgufConfig

        return GgufConfig(dequantize=True)
    if spec.quantization == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if spec.dtype == "auto" else _dtype(spec)  # the default, float32, would be several times slower
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute)


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turns errors of a load inside the block into a UserError that begins with `subject`; the original error stays as its cause."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, ImportError, SafetensorError, struct.error) as error:  # the last: of a .gguf file cut short
        raise UserError(f"{subject} cannot be loaded: {_reason(error).rstrip('.')}.") from error


def _reason(error: BaseException) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "it brings code of its own; allow that with its trust_remote_code=true if you trust its source."
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


ORDER = ("cuda", "mps", "npu", "cpu")


def resolve_device(name: str) -> str:
    """`auto` becomes the first of `ORDER` that this machine has; a named device (`cuda`, `cuda:1`, ...) stays itself. Raises UserError if
    it is absent.
    """
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the CPU."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_watched(way_out: str) -> Iterator[None]:
    """Turns running out of memory inside the block, on a device or on the CPU, into a UserError that ends with `way_out`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one of the latter, as is what its CPU allocator raises
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory ({(str(error).splitlines() or [type(error).__name__])[0][:200]}); {way_out}.") from error


def set_threads(threads: int | None) -> None:
    """Sets how many threads torch computes with; None restores the number that it began with, whatever an earlier job of the sweep has
    set.
    """
    import torch

    default = _default_threads()  # asked for before any number is set
    torch.set_num_threads(default if threads is None else threads)


@cache
def _default_threads() -> int:
    import torch

    return torch.get_num_threads()
