"""The tiny Llamas that ship with specexp: their shapes, and how one is made, grown deeper and written to disk.

Growing leaves the model's function as it was. This module knows nothing of data and training.
"""
import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

HEAD = 32  # dimension of an attention head


@dataclass(frozen=True)
class Shape:
    """The size of a Llama: layers, width of the residual stream and of the feed-forward layer."""

    layers: int
    hidden: int
    inner: int


RATES: dict[str, float] = {}  # no parameter learns at a rate of its own
TARGET, DRAFT = Shape(24, 160, 416), Shape(1, 256, 768)


def build(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A new Llama with tied embeddings; the matrices that write into the residual stream start smaller by sqrt(2 layers), as in GPT-2. Its
    random weights depend on its depth alone.
    """
    end = tokenizer.eos_token_id
    torch.manual_seed(shape.layers)
    heads = shape.hidden // HEAD
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
                         num_attention_heads=heads, num_key_value_heads=heads, head_dim=HEAD, max_position_embeddings=16384,
                         tie_word_embeddings=True, initializer_range=0.04, bos_token_id=end, eos_token_id=end, pad_token_id=end)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight /= math.sqrt(2 * shape.layers)
            layer.mlp.down_proj.weight /= math.sqrt(2 * shape.layers)
    return model


def depth(model: LlamaForCausalLM) -> int:
    """How many layers the model has."""
    return len(model.model.layers)


def grown(model: LlamaForCausalLM, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model with more layers that computes the same function: after each old layer come new ones that add nothing yet (cf.
    Net2DeeperNet, Chen 2016).
    """
    deep, each = build(shape, tokenizer), shape.layers // len(model.model.layers)
    deep.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    deep.model.norm.load_state_dict(model.model.norm.state_dict())
    with torch.no_grad():
        for index, layer in enumerate(deep.model.layers):
            if index % each == 0:
                layer.load_state_dict(model.model.layers[index // each].state_dict())
            else:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
    return deep


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes model and tokenizer as bfloat16 safetensors that transformers loads."""
    small = copy.deepcopy(model).to(torch.bfloat16)
    small.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
