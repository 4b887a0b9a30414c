"""This module answers whether a model can be had at all, before torch is imported and before anything large is read or fetched.

It looks at directories, then at the Hub's local cache, and last at the network; without this check a load without network would retry for
20 to 50 seconds. It knows the names of files and not what is in them: a damaged checkpoint is found only by loading it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from specexp.assets import PREFIX, asset_path
from specexp.datasets.files import PROBE_SECONDS, offline
from specexp.errors import UserError
from specexp.models.spec import ModelSpec

SAFE = ("model.safetensors", "model.safetensors.index.json")
PICKLE = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of PEFT
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")

Find = Callable[[str], Path | None]  # gives the place of a file name, or None


def preflight(spec: ModelSpec, key: str = "model_pair.target") -> None:
    """Raises UserError, within 10 s, if `spec` cannot be loaded. key: the node of the configuration that messages name."""
    if spec.is_standin:
        _check_standin(spec, key)
        return preflight(spec.files, key)
    _require_packages(spec, key)
    place = locate(spec.name, key)
    if (base := base_of(spec, key)) is not None:
        _check_adapter(place, spec, key)
        return preflight(base, key)
    if Path(place).is_dir():
        return _check_directory(Path(place), spec, key)
    find = partial(_cached, place, spec.revision)
    if find(spec.gguf_file) if spec.gguf_file else _complete(find, spec.allow_pickle):
        return None
    if offline():
        raise _unreachable(place, key)
    return _check_hub(place, spec, key)


def base_of(spec: ModelSpec, key: str) -> ModelSpec | None:
    """The spec of the model that an adapter changes, as the adapter's own configuration names it; None where `spec` is a whole model.

    Raises UserError for an adapter that names none.
    """
    find = _finder(locate(spec.name, key), spec.revision)
    if find("config.json") or (file := find(ADAPTER)) is None:
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        name, revision = content["base_model_name_or_path"], content.get("revision")
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or no mapping
        name = revision = None
    if not isinstance(name, str) or not name or name == spec.name:
        raise UserError(f"{_name_key(key)}={spec.name} is an adapter whose {ADAPTER} names no base model; add base_model_name_or_path.")
    return replace(spec, name=name, revision=revision)


def has_tokenizer(name: str, revision: str | None, key: str) -> bool:
    """Whether a directory, or what the cache has of a Hub repository, holds a tokenizer."""
    find = _finder(locate(name, key), revision)
    return any(find(file) for file in TOKENIZER)


def preflight_tokenizer(name: str, revision: str | None = None, key: str = "model_pair.tokenizer") -> None:
    """Raises UserError, within 10 s, if the tokenizer of `name` cannot be had."""
    place = locate(name, key)
    if has_tokenizer(name, revision, key):
        return
    if Path(place).is_dir():
        raise UserError(f"{place} holds no tokenizer: save one there, or name one with model_pair.tokenizer=DIRECTORY_OR_HUB_ID.")
    if offline():
        raise _unreachable(place, key)
    _on_hub(place, revision, TOKENIZER[1], key)


def fetched(place: str, names: Sequence[str], key: str) -> Path | None:
    """The first file among `names` that a directory or a Hub repository has, downloaded if need be; None if it has none of them.

    Raises UserError if the Hub has to be asked and does not answer.
    """
    directory, find = Path(place), _finder(place, None)
    if directory.is_dir() or any(find(name) for name in names):
        return next((found for name in names if (found := find(name))), None)
    if offline():
        raise _unreachable(place, key)
    from huggingface_hub import hf_hub_download

    return next((Path(hf_hub_download(place, name)) for name in names if _on_hub(place, None, name, key)), None)


def locate(name: str, key: str) -> str:
    """What `from_pretrained` is given: an existing directory, or a well-formed Hub id. Raises UserError for anything else."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name == "???" or not name:
        raise UserError(f"{_name_key(key)} is not set: give {_name_key(key)}=DIRECTORY_OR_HUB_ID.")
    path = asset_path(name)
    if path.is_dir():
        return str(path)
    if name.startswith(PREFIX):
        raise UserError(f"{_name_key(key)}={name} is missing from the installation ({path}): reinstall specexp, or give another model.")
    if path.suffix == ".gguf" and path.is_file():
        raise UserError(f"{_name_key(key)}={name} is a file: give {_name_key(key)}={path.parent} {key}.gguf_file={path.name}.")
    if path.is_file():
        raise UserError(f"{_name_key(key)}={name} is a file: give the directory that holds config.json and the weights.")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"{_name_key(key)}={name} does not exist: give an existing directory or a Hub id (OWNER/MODEL).") from None
    return name


@contextmanager
def offline_where_possible(place: str, trust_remote_code: bool) -> Iterator[None]:
    """Switches the Hub's client off around a load that needs no network or has none.

    `local_files_only` is not enough: the client also looks up a registry for its user agent, and tokenizers look up their base model. A
    directory whose code may lie in another repository (trust_remote_code) is loaded with the client on.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (Path(place).is_dir() and not trust_remote_code) or offline()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _check_standin(spec: ModelSpec, key: str) -> None:
    """Checks what can be known of a stand-in without the configuration of the model it is grown from."""
    if spec.quantization != "none":
        raise UserError(f"{key}.quantization={spec.quantization} is not made for stand-ins; set {key}.quantization=none, or weights=real.")
    if spec.shape is None or spec.shape.unknown:
        unknown = "layers" if spec.shape is None else spec.shape.unknown[0]
        raise UserError(
            f"{spec.name} has no stand-in, as {key}.shape.{unknown} is not known; give the shape of a Llama with {key}.shape.NAME=NUMBER, "
            "or model_pair.weights=real."
        )


EXTRAS = {"gguf": "gguf", "peft": "peft"}  # package: the extra that brings it


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        extra = EXTRAS[package]
        raise UserError(f"{what} needs the package {package}: pip install 'specexp[{extra}]' (in a checkout: pip install -e '.[{extra}]').")


def _check_adapter(place: str, spec: ModelSpec, key: str) -> None:
    _require("peft", f"{_name_key(key)}={spec.name}, an adapter,")
    if spec.gguf_file is not None:
        raise UserError(f"{key}.gguf_file={spec.gguf_file} does not go with {spec.name}, which is an adapter; leave it out.")
    if spec.allow_pickle or _finder(place, spec.revision)(ADAPTER_WEIGHTS) is not None:
        return
    if Path(place).is_dir() or offline() or not _on_hub(place, spec.revision, ADAPTER_WEIGHTS, key):
        raise UserError(f"{_name_key(key)}={spec.name} is an adapter without {ADAPTER_WEIGHTS}; copy it again, or give another one.")


def _require_packages(spec: ModelSpec, key: str) -> None:
    if spec.gguf_file is not None:
        _require("gguf", f"{key}.gguf_file={spec.gguf_file}")
    wanted = {}
    if spec.quantization != "none":
        wanted["bitsandbytes"] = f"{key}.quantization={spec.quantization}"
    if spec.quantization != "none" or spec.device_map:
        wanted["accelerate"] = wanted.get("bitsandbytes", f"{key}.device_map={spec.device_map}")
    missing = [package for package in wanted if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{wanted[missing[0]]} needs {' and '.join(missing)}: pip install {' '.join(missing)}, or leave that setting out.")


def _check_directory(directory: Path, spec: ModelSpec, key: str) -> None:
    find = partial(_in_directory, directory)
    packed = sorted(file.name for file in directory.glob("*.gguf"))
    if spec.gguf_file is not None:
        if find(spec.gguf_file) is None:
            there = f"it holds {', '.join(packed)}" if packed else "it holds no .gguf file"
            raise UserError(f"{key}.gguf_file={spec.gguf_file} is not in {spec.name}: {there}.")
        return
    if find("config.json") is None and packed:
        raise UserError(f"{_name_key(key)}={spec.name} holds weights in llama.cpp's format: give {key}.gguf_file={packed[0]} too.")
    if find("config.json") is None:
        raise UserError(f"{_name_key(key)}={spec.name} holds no config.json: give a directory written by save_pretrained.")
    if _complete(find, spec.allow_pickle):
        return
    if _complete(find, allow_pickle=True):
        raise _pickle_only(spec, key)
    raise UserError(f"{_name_key(key)}={spec.name} has incomplete weights: {SAFE[0]}, or one of its shards, is absent; copy it again.")


def _check_hub(place: str, spec: ModelSpec, key: str) -> None:
    if spec.gguf_file is not None:
        if not _on_hub(place, spec.revision, spec.gguf_file, key):
            raise UserError(f"{key}.gguf_file={spec.gguf_file} is not in {place} on the Hub: correct the file's name.")
        return
    if not _on_hub(place, spec.revision, "config.json", key) and _on_hub(place, spec.revision, ADAPTER, key):
        from huggingface_hub import hf_hub_download

        hf_hub_download(place, ADAPTER, revision=spec.revision)
        return preflight(spec, key)
    if not _on_hub(place, spec.revision, "config.json", key):
        raise UserError(f"{_name_key(key)}={place} holds no config.json on the Hub, so it is no transformers model: choose another one.")
    if not spec.allow_pickle and not any(_on_hub(place, spec.revision, file, key) for file in SAFE):
        raise _pickle_only(spec, key)


def _on_hub(place: str, revision: str | None, file: str, key: str) -> bool:
    """Asks the Hub for a file with one HEAD request. Raises UserError if the repository is gated or unknown, or the Hub fails on the way.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    local = f"or give a local copy with {_name_key(key)}=DIRECTORY"
    try:
        get_hf_file_metadata(hf_hub_url(place, file, revision=revision), timeout=PROBE_SECONDS)
    except EntryNotFoundError:
        return False
    except GatedRepoError:
        way_in = f"accept its terms at {constants.ENDPOINT}/{place} and log in with `hf auth login` (or HF_TOKEN)"
        raise UserError(f"{place} is gated: {way_in}, {local}.") from None
    except RevisionNotFoundError:
        raise UserError(f"{place} has no revision {revision}: correct or drop {key}.revision.") from None
    except RepositoryNotFoundError:
        raise UserError(f"{place} is not on the Hub, or is private: check the spelling, log in with `hf auth login`, {local}.") from None
    except HTTPError as error:
        raise _unreachable(place, key) from error
    return True


def _complete(find: Find, allow_pickle: bool) -> bool:
    """Whether there is a config.json and one complete set of weights."""
    formats = (SAFE, PICKLE) if allow_pickle else (SAFE,)
    return find("config.json") is not None and any(_has_weights(find, *names) for names in formats)


def _has_weights(find: Find, single: str, index: str) -> bool:
    if find(single):
        return True
    listing = find(index)
    return listing is not None and all(find(shard) for shard in set(json.loads(listing.read_text())["weight_map"].values()))


def _finder(place: str, revision: str | None) -> Find:
    """Looks a file's name up in a directory, or in what the cache has of a Hub repository."""
    return partial(_in_directory, Path(place)) if Path(place).is_dir() else partial(_cached, place, revision)


def _in_directory(directory: Path, file: str) -> Path | None:
    return directory / file if (directory / file).is_file() else None


def _cached(place: str, revision: str | None, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _name_key(key: str) -> str:
    return key if key.endswith(("tokenizer", "heads", "--target", "--written")) else f"{key}.name"


def _unreachable(place: str, key: str) -> UserError:
    return UserError(
        f"{place} is not (wholly) in the local cache and the Hub cannot be reached: run `hf download {place}` once with network, "
        f"or give a local copy with {_name_key(key)}=DIRECTORY."
    )


def _pickle_only(spec: ModelSpec, key: str) -> UserError:
    return UserError(
        f"{spec.name} has no safetensors weights: take its pickle file with {key}.allow_pickle=true if you trust its source, "
        "or choose another model."
    )
