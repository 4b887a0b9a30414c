"""A tokenizer of Llama 2's kind: characters that its vocabulary lacks are spelled as bytes, one id for each byte."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>")
BYTES = {f"<0x{byte:02X}>": byte + len(SPECIAL) for byte in range(256)}
WORDS = ("▁", "a", "b", "de", "f", "▁a", "▁def", "ab", "▁▁", "é", "\ufffd")
FIRST_WORD = len(SPECIAL) + len(BYTES)


def byte_fallback_tokenizer():
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *BYTES, *WORDS))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1])


def word(text):
    return FIRST_WORD + WORDS.index(text)


def spelled(text):
    """The ids of its bytes."""
    return [byte + len(SPECIAL) for byte in text.encode()]
