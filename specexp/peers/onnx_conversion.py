"""A model's weights in the form that onnxruntime-genai reads: converted by its own builder, once, into a directory that is kept.

The conversion is in float32, for the CPU. It is found again by a hash of configuration and weights and by the versions of the packages
that wrote it; the directory may be deleted at any time. Not every model can be converted: what the builder does not know is refused, and
so is what it converts into another function, since each conversion is compared with the model before it is kept.

The last part knows what the installed transformers cannot do: combinations that were seen to crash in 5.17 and to give the right text in
5.23. Versions between the two were not tried and count as the older one. This module knows nothing of decoding.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GenerationConfig, PreTrainedTokenizerFast

from specexp.errors import UserError
from specexp.peers.request import SharedModel

logger = logging.getLogger(__name__)

SAMPLE = 32  # tokens that model and conversion are compared on
NAMES = ("_name_or_path", "transformers_version", "architectures")  # keys of a configuration that do not change what its model computes
OTHERWISE = "choose another pair, or method=hf_assisted"
CLOSE = 1e-3  # in parts of the largest logit; a hundred times the rounding errors that float32 was seen to make


@dataclass(frozen=True)
class Converted:
    """A converted model. place: a directory with `genai_config.json` and the graph that it names."""

    place: Path

    @cached_property
    def config(self) -> dict[str, dict]:
        """The configuration that the builder wrote, which describes this model alone."""
        return json.loads((self.place / "genai_config.json").read_text(encoding="utf-8"))

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of keys and values for one position."""
        shape = self.config["model"]["decoder"]
        return 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_size"] * torch.float32.itemsize


def default_directory() -> Path:
    """`specexp/onnxruntime-genai` in the user's cache directory (XDG)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specexp" / "onnxruntime-genai"


def converted(shared: SharedModel, directory: Path) -> Converted:
    """The model's conversion below `directory`, made now if it is not there. Raises UserError where it cannot be made or kept."""
    import onnxruntime_genai as engine

    place = directory / f"{engine.__version__}-transformers-{transformers.__version__}" / fingerprint(shared.model)
    if not (place / "genai_config.json").is_file():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _convert(shared, place)
        except OSError as error:
            raise UserError(f"no converted model can be kept in {directory} ({error}); give another as method.directory=DIR.") from error
    return Converted(place)


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of configuration, names, shapes and weights; equal for two models that compute the same."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in NAMES}
    digest = blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _convert(shared: SharedModel, place: Path) -> None:
    """Converts into a directory beside `place` and then moves it there, so that whatever is at `place` is complete."""
    megabytes = sum(parameter.nbytes for parameter in shared.model.parameters()) / 1e6
    logger.info("converting a %s model (%.0f MB) for onnxruntime-genai, once, into %s", shared.model.config.model_type, megabytes, place)
    with TemporaryDirectory(dir=place.parent, prefix="unfinished-") as scratch:
        source, result = Path(scratch) / "model", Path(scratch) / "converted"
        with _builder_output():
            _save(shared, source)
            try:
                _build(source, result, Path(scratch) / "cache")
            except NotImplementedError:
                raise UserError(f"onnxruntime-genai's builder does not know {type(shared.model).__name__}; {OTHERWISE}.") from None
        _check_same(shared.model, result)
        try:
            result.rename(place)
        except OSError:
            if not place.is_dir():  # otherwise another process was faster
                raise


@contextmanager
def _builder_output() -> Iterator[None]:
    """Sends what the builder prints, which is progress, to a terminal's standard error, where it does not mix with results; elsewhere it
    is dropped.
    """
    with open(os.devnull, "w") as nothing, redirect_stdout(sys.stderr if sys.stderr.isatty() else nothing):
        yield


def _save(shared: SharedModel, place: Path) -> None:
    """Saves the model as transformers does. Weights that are views of a larger memory are copied, since transformers would take them for
    tied ones. The builder insists on a tokenizer; it gets one whose words are numbers, because only ids go in and out.
    """
    model = shared.model
    whole = {key: tensor.untyped_storage().nbytes() == tensor.nbytes for key, tensor in model.state_dict().items()}
    weights = {key: tensor if whole[key] else tensor.clone() for key, tensor in model.state_dict().items()}
    with shared.lent(generation_config=GenerationConfig(), config=copy.deepcopy(model.config)):  # because saving changes both
        model.save_pretrained(place, state_dict=weights)
    words = WordLevel({str(id): id for id in range(model.config.vocab_size)}, unk_token="0")  # noqa: S106 (a word of numbers, no password)
    ends = model.config.eos_token_id  # given to the tokenizer, or an architecture's own adds one, with an id beyond the vocabulary
    end = (ends[0] if isinstance(ends, list) else ends) or 0
    special = {"bos_token": "0", "eos_token": str(end), "pad_token": "0", "unk_token": "0"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **special).save_pretrained(place)


def _build(source: Path, result: Path, cache: Path) -> None:
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    arguments = ("", str(source), str(result), "fp32", "cpu", str(cache))
    create_model(*arguments, **parse_extra_options(*arguments, ["hf_token=false"]))


@torch.inference_mode()
def _check_same(model: torch.nn.Module, place: Path) -> None:
    """Raises UserError unless the engine runs the conversion and gives the model's own logits along a random text."""
    ids = np.random.default_rng(0).integers(model.config.vocab_size, size=(1, SAMPLE)).astype(np.int32)
    kind = f"this {model.config.model_type} model"
    try:
        theirs = _logits(place, ids)
    except RuntimeError as error:
        told = str(error).rpartition("Status Message: ")[2].splitlines()[0]
        raise UserError(f"onnxruntime-genai cannot run {kind} ({told}); {OTHERWISE}.") from None
    ours = model(torch.from_numpy(ids).long()).logits[0]
    difference = float((theirs - ours).abs().max() / ours.abs().max())
    if not difference < CLOSE:  # written so that NaN, where the model's own logits are infinite, is refused too
        raise UserError(
            f"onnxruntime-genai's builder makes another function of {kind}: its logits differ by {difference:.1g} of the largest "
            f"(a stand-in's rotary frequencies, for one, it cannot know); {OTHERWISE}."
        )


def _logits(place: Path, ids: np.ndarray) -> torch.Tensor:
    """The engine's logits [n, V] for ids [1, n]."""
    import onnxruntime_genai as engine

    model = engine.Model(str(place))
    settings = engine.GeneratorParams(model)
    settings.set_search_options(max_length=ids.shape[1] + 1)
    generator = engine.Generator(model, settings)
    generator.append_tokens(ids)
    return torch.from_numpy(generator.get_output("logits")[0].copy())


SINCE = "5.23"


def refuse_before_it_works(what: str, concerned: bool) -> None:
    """Raises UserError where `concerned` is true and the installed transformers crashes in `what`."""
    if concerned and is_old():
        told = f"transformers {transformers.__version__} crashes in {what}"
        raise UserError(f"{told}; install transformers {SINCE} or later, or choose a method of our own.")


def is_old() -> bool:
    return _numbers(transformers.__version__) < _numbers(SINCE)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]
