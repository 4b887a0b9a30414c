"""The tiny T5s that ship with specexp: their shapes, how one is made and grown deeper, and their tokenizer.

Growing leaves the model's function as it was. This module knows nothing of data and training.
"""

import math
from dataclasses import dataclass

import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

HEAD = 32  # dimension of an attention head
PAD = "<pad>"
# Factors on the learning rate of the matrices. T5 does not divide by sqrt(HEAD) in its attention, so the queries' rate is divided by it.
# The order of tokens is known from the biases of relative positions alone, which have far to go. Embeddings are as large as T5's, and
# so are their steps.
RATES = {"q.weight": HEAD**-0.5, "relative_attention_bias.weight": 2.0, "shared.weight": 0.5}


@dataclass(frozen=True)
class Shape:
    """The size of a T5: layers of the decoder and of the encoder, width of the residual stream and of the feed-forward layer."""

    layers: int
    encoder: int
    hidden: int
    inner: int


TARGET, DRAFT = Shape(8, 8, 128, 384), Shape(1, 2, 128, 384)  # decoders no deeper than encoders: transformers' caches rely on it


def adapted(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tiny Llamas' tokenizer as T5 needs it: a padding token of its own, which also starts the decoder; the source ends with eos."""
    core, end = tokenizer.backend_tokenizer, tokenizer.eos_token
    core.add_special_tokens([PAD])
    core.post_processor = TemplateProcessing(single="$A " + end, special_tokens=[(end, tokenizer.eos_token_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=end, pad_token=PAD, model_max_length=16384, clean_up_tokenization_spaces=False
    )


def build(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """A new T5 without dropout, with tied embeddings; the matrices that write into the residual streams start smaller by sqrt(2 layers),
    as in GPT-2. Its random weights depend on its depth alone.
    """
    torch.manual_seed(shape.layers)
    start = tokenizer.pad_token_id
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=shape.hidden,
        d_kv=HEAD,
        d_ff=shape.inner,
        num_layers=shape.encoder,
        num_decoder_layers=shape.layers,
        num_heads=shape.hidden // HEAD,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=start,
        decoder_start_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for stack in (model.encoder, model.decoder):
            for matrix in _outputs(stack.block):
                matrix /= math.sqrt(2 * len(stack.block))
    return model


def depth(model: T5ForConditionalGeneration) -> int:
    """How many layers the decoder has."""
    return len(model.decoder.block)


def grown(model: T5ForConditionalGeneration, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """A model with more layers that computes the same function: after each old layer of encoder and decoder come new ones that add nothing
    yet.
    """
    deep = build(shape, tokenizer)
    deep.shared.load_state_dict(model.shared.state_dict())
    for old, new in ((model.encoder, deep.encoder), (model.decoder, deep.decoder)):
        new.final_layer_norm.load_state_dict(old.final_layer_norm.state_dict())
        _spread(old.block, new.block)
    return deep


@torch.no_grad()
def _spread(old: torch.nn.ModuleList, new: torch.nn.ModuleList) -> None:
    """Puts the old layers at equal distances among the new ones."""
    each = len(new) // len(old)
    for index, block in enumerate(new):
        if index % each == 0:
            block.load_state_dict(old[index // each].state_dict())
        else:
            for matrix in _outputs([block]):
                matrix.zero_()


def _outputs(blocks) -> list[torch.nn.Parameter]:
    """The matrices that write into the residual stream."""
    return [p for block in blocks for name, p in block.named_parameters() if name.endswith((".o.weight", ".wo.weight"))]
