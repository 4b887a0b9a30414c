"""The tiny T5s that ship with specexp: their shapes, how one begins, grows deeper, and the tokenizer they take.

Knows nothing of data or training. Promises that growing leaves the model's function as it was.
"""
import math
from dataclasses import dataclass

import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

HEAD = 32  # dimension of an attention head
PAD = "<pad>"


@dataclass(frozen=True)
class Shape:
    """Size of a T5: layers of the decoder and of the encoder, width of the residual stream and of the feed-forward layer."""

    layers: int
    encoder: int
    hidden: int
    inner: int


TARGET, DRAFT = Shape(12, 4, 128, 384), Shape(1, 2, 128, 384)


def adapted(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tiny Llamas' tokenizer in T5's manner: a padding token of its own, which also starts the decoder; the source ends with eos."""
    core, end = tokenizer.backend_tokenizer, tokenizer.eos_token
    core.add_special_tokens([PAD])
    core.post_processor = TemplateProcessing(single="$A " + end, special_tokens=[(end, tokenizer.eos_token_id)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, pad_token=PAD, model_max_length=16384,
                                   clean_up_tokenization_spaces=False)


def build(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """A T5 without dropout, embeddings tied; outputs into the residual streams start smaller by sqrt(2 layers), as in GPT-2.
    Where it begins depends on its depth alone."""
    torch.manual_seed(shape.layers)
    start = tokenizer.pad_token_id
    config = T5Config(vocab_size=len(tokenizer), d_model=shape.hidden, d_kv=HEAD, d_ff=shape.inner, num_layers=shape.encoder,
                      num_decoder_layers=shape.layers, num_heads=shape.hidden // HEAD, dropout_rate=0.0, feed_forward_proj="relu",
                      pad_token_id=start, decoder_start_token_id=start, eos_token_id=tokenizer.eos_token_id)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for stack in (model.encoder, model.decoder):
            for matrix in _outputs(stack.block):
                matrix /= math.sqrt(2 * len(stack.block))
    return model


def depth(model: T5ForConditionalGeneration) -> int:
    """Layers of its decoder."""
    return len(model.decoder.block)


def grown(model: T5ForConditionalGeneration, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """The same function with more decoder layers: after each old layer come new ones that add nothing yet."""
    deep, each = build(shape, tokenizer), shape.layers // depth(model)
    deep.shared.load_state_dict(model.shared.state_dict())
    deep.encoder.load_state_dict(model.encoder.state_dict())
    deep.decoder.final_layer_norm.load_state_dict(model.decoder.final_layer_norm.state_dict())
    with torch.no_grad():
        for index, block in enumerate(deep.decoder.block):
            if index % each == 0:
                block.load_state_dict(model.decoder.block[index // each].state_dict())
            else:
                for matrix in _outputs([block]):
                    matrix.zero_()
    return deep


def _outputs(blocks) -> list[torch.nn.Parameter]:
    """The matrices that write into the residual stream."""
    return [p for block in blocks for name, p in block.named_parameters() if name.endswith((".o.weight", ".wo.weight"))]
