"""Medusa heads (Cai et al. 2024, arXiv:2401.10774, section 2.1): small networks on a target's hidden state, each of which guesses one of
the K tokens after the next one; and how they are kept in files.

Head i computes logits_i = W_i x with x = h + SiLU(U_i h + b_i), the latter once for each residual block. From the state at position t,
which the output projection reads to predict token t + 1, head i predicts token t + 2 + i. Heads do not see each other's guesses.

Published heads and our own are read by one loader, from a directory or the Hub: config.json and medusa_lm_head.safetensors (or .pt), with
the keys "HEAD.BLOCK.linear.weight", "HEAD.BLOCK.linear.bias" and "HEAD.LAYERS.weight". Our own config.json also holds the accuracies by
head and rank. How many heads there are is counted in the weights, because published configurations give fewer than their files hold. From
pickled files nothing but tensors is read. This module knows nothing of text and of draft trees.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from specexp.errors import UserError
from specexp.models import loading
from specexp.models.preflight import fetched, locate
from specexp.models.spec import ModelSpec

KEY = "method.heads"
TRAIN = "python -m specexp.medusa --target NAME --out DIR"
WEIGHTS, PICKLED, INDEX = "medusa_lm_head.safetensors", "medusa_lm_head.pt", "model.safetensors.index.json"
NAMES = re.compile(r"(?:medusa_heads?\.)?(\d+)\.(\d+)\.(linear\.weight|linear\.bias|weight)")  # prefix: heads inside a whole model's file


class HeadsFile:
    """The heads at `path`: a directory, a Hub id, or asset:NAME. target: the model that they must fit; None leaves that unchecked.

    heads, layers, hidden, vocabulary: the number of heads K, residual blocks of each head, D, V. config: the content of config.json.
    accuracies: [K][ranks], the share of held-out tokens that are a head's guess of that rank, or None where nobody measured them. Raises
    UserError for heads that cannot be had, are incomplete, or do not fit the target.
    """

    def __init__(self, path: str | None, target: ModelSpec | None = None):
        if not path:
            raise UserError(f"no Medusa heads are known for this target; train some with {TRAIN}, and give {KEY}=DIR.")
        # The target's configuration comes first, so that a target that cannot be had is refused before any heads are fetched.
        config = None if target is None else _config(target)
        self.path, self.place = path, locate(path, KEY)
        find = partial(fetched, self.place, key=KEY)  # gives the first of several file names that exists
        self.files = _weights(find, path)
        shapes = {name: shape for file in self.files for name, shape in _read(file, _shapes).items()}
        self.heads, self.layers, self.hidden, self.vocabulary = _measures(shapes, path)
        described = find(["config.json"])
        self.config = {} if described is None else json.loads(described.read_text(encoding="utf-8"))
        self.accuracies: list[list[float]] | None = self.config.get("accuracies")
        if config is not None:
            self.check(_width(config), config.vocab_size, target.name)

    def check(self, hidden: int, vocabulary: int, name: str) -> None:
        """Raises UserError unless the heads are made for states of `hidden` numbers and `vocabulary` ids."""
        if (self.hidden, self.vocabulary) != (hidden, vocabulary):
            raise UserError(
                f"the Medusa heads {self.path} are for states of {self.hidden} numbers and {self.vocabulary} ids, but {name} has "
                f"{hidden} and {vocabulary}; give {KEY}=DIR with heads of this target, or train some: {TRAIN}."
            )

    def load(self) -> MedusaHeads:
        """Reads the heads onto the CPU, in evaluation mode and in the file's own dtype."""
        tensors = {}
        for file in self.files:
            tensors |= {_name(key): tensor for key, tensor in _read(file, _tensors).items() if NAMES.fullmatch(key)}
        blocks = [[f"{head}.{block}.linear" for head in range(self.heads)] for block in range(self.layers)]
        state = {
            "inner": torch.stack([torch.stack([tensors[f"{name}.weight"] for name in names]) for names in blocks]),
            "bias": torch.stack([torch.stack([tensors[f"{name}.bias"] for name in names]) for names in blocks]),
            "output": torch.stack([tensors[f"{head}.{self.layers}.weight"] for head in range(self.heads)]),
        }
        with torch.device("meta"):
            heads = MedusaHeads(self.heads, self.layers, self.hidden, self.vocabulary)
        heads.load_state_dict(state, assign=True)
        return heads.eval().requires_grad_(False)


def fitted(file: HeadsFile, runner) -> MedusaHeads:
    """Loads the heads in the dtype and onto the device of the target that `runner` runs."""
    return file.load().to(runner.model.get_output_embeddings().weight.device, runner.model.dtype)


def save(heads: MedusaHeads, directory: Path, facts: dict, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes both files, each completely or not at all; `facts` go into config.json. Raises UserError for a directory that cannot be
    written.
    """
    tensors = {}
    for head in range(len(heads)):
        for block in range(heads.layers):
            tensors[f"{head}.{block}.linear.weight"] = heads.inner[block, head]
            tensors[f"{head}.{block}.linear.bias"] = heads.bias[block, head]
        tensors[f"{head}.{heads.layers}.weight"] = heads.output[head]
    _, vocabulary, hidden = heads.output.shape
    sizes = {"medusa_num_heads": len(heads), "medusa_num_layers": heads.layers, "hidden_size": hidden, "vocab_size": vocabulary}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / f".{WEIGHTS}.tmp"
        save_file({name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}, draft, {"format": "pt"})
        os.replace(draft, directory / WEIGHTS)
        draft = directory / ".config.json.tmp"
        draft.write_text(json.dumps(facts | sizes, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, directory / "config.json")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the heads to {directory} ({error}); choose another directory with --out DIR.") from error


def _config(target: ModelSpec):
    return loading.load_config(target).get_text_config()


def _width(config) -> int:
    """The size D of the states that the output projection reads."""
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size


def _weights(find, path: str) -> list[Path]:
    file = find([WEIGHTS, PICKLED, INDEX])
    if file is not None and file.name != INDEX:
        return [file]
    if file is not None:
        places = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        if shards := sorted({shard for key, shard in places.items() if NAMES.fullmatch(key)}):
            return [find([shard]) for shard in shards]
    raise UserError(f"{path} holds no Medusa heads ({WEIGHTS} or {PICKLED}); give {KEY}=DIR_OR_HUB_ID of some, or train them: {TRAIN}.")


def _measures(shapes: dict[str, tuple[int, ...]], path: str) -> tuple[int, int, int, int]:
    """Gives K, the number of residual blocks, D and V. Raises UserError unless the keys are those of complete heads."""
    named = {_name(key): shape for key, shape in shapes.items() if NAMES.fullmatch(key)}
    last = named and max(tuple(map(int, key.split(".")[:2])) for key in named)
    heads, layers = (last[0] + 1, last[1]) if named else (0, 0)
    vocabulary, hidden = named.get(f"0.{layers}.weight", (0, 0))
    wanted = {f"{head}.{layers}.weight": (vocabulary, hidden) for head in range(heads)}
    for head in range(heads):
        for block in range(layers):
            wanted |= {f"{head}.{block}.linear.weight": (hidden, hidden), f"{head}.{block}.linear.bias": (hidden,)}
    if not named or wanted != named:
        odd = next(iter(sorted(wanted.items() ^ named.items())), ("0.0.linear.weight",))[0]
        raise UserError(f"{path} holds incomplete Medusa heads: {odd} is absent or of another size; copy them again, or train: {TRAIN}.")
    return heads, layers, hidden, vocabulary


def _name(key: str) -> str:
    """The key without the prefix that it has where the heads are kept inside a whole model."""
    return ".".join(NAMES.fullmatch(key).groups())


def _read(file: Path, how) -> dict:
    try:
        return how(file)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read as tensors ({reason}); copy it again, or train heads: {TRAIN}.") from error


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in _tensors(file).items()}
    with safe_open(file, "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _tensors(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True, mmap=True)


class MedusaHeads(nn.Module):
    """K heads of `layers` residual blocks each, kept as stacked tensors so that one batched product computes all heads.

    inner: [layers, K, D, D] and bias: [layers, K, D] are 0 at first, so that x = h; every block has its own. output: [K, V, D] must be
    set; training begins with the target's own output projection in each head.
    """

    def __init__(self, heads: int, layers: int, hidden: int, vocabulary: int):
        super().__init__()
        self.inner = nn.Parameter(torch.zeros(layers, heads, hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(layers, heads, hidden))
        self.output = nn.Parameter(torch.zeros(heads, vocabulary, hidden))

    @classmethod
    def beginning(cls, projection: Tensor, heads: int, layers: int) -> MedusaHeads:
        """New heads from the target's output projection [V, D]: at first every head predicts what the target itself predicts for token t +
        1.
        """
        made = cls(heads, layers, projection.shape[1], projection.shape[0])
        with torch.no_grad():
            made.output.copy_(projection.to(made.output.dtype).expand_as(made.output))
        return made.to(projection.device)

    def __len__(self) -> int:
        return self.output.shape[0]

    @property
    def layers(self) -> int:
        return self.inner.shape[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """The logits [K, n, V] of all heads from states [n, D]."""
        x = hidden.expand(len(self), *hidden.shape)
        for inner, bias in zip(self.inner, self.bias, strict=True):
            x = x + silu(torch.baddbmm(bias[:, None], x, inner.mT))
        return torch.bmm(x, self.output.mT)

    def one(self, head: int, hidden: Tensor) -> Tensor:
        """The logits [..., V] of one head from states [..., D]. Training calls this, because it needs one head at a time."""
        x = hidden
        for inner, bias in zip(self.inner[:, head], self.bias[:, head], strict=True):
            x = x + silu(linear(x, inner, bias))
        return linear(x, self.output[head])
