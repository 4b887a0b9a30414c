"""A tokenizer of Llama 2's kind: characters that its vocabulary lacks are spelled as bytes, one id for each byte."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>")
BYTES = {f"<0x{byte:02X}>": byte + len(SPECIAL) for byte in range(256)}
WORDS = ("▁", "a", "b", "de", "f", "▁a", "▁def", "ab", "▁▁", "é", "\ufffd")
FIRST_WORD = len(SPECIAL) + len(BYTES)


LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
KINDS = {  # how tokenizers with such ids put their texts together
    "llama": decoders.Sequence(LLAMA),
    "gemma": decoders.Sequence(LLAMA[:3]),  # which keeps a leading space
    "metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "metaspace first": decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()]),
    "wordpiece": decoders.WordPiece(),  # which writes spaces between tokens, and bytes as they are called
}


def byte_fallback_tokenizer(kind="llama"):
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *BYTES, *WORDS))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = KINDS[kind]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1])


def word(text):
    return FIRST_WORD + WORDS.index(text)


def spelled(text):
    """The ids of its bytes."""
    return [byte + len(SPECIAL) for byte in text.encode()]
