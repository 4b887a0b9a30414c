"""The tiny draft model with another tokenizer: one that begins every text with a BOS token, or that has a chat template, as released models do."""

import json
from pathlib import Path

from specexp.assets import asset_path
from specexp.models.pair import load_tokenizer

BOS = "<|endoftext|>"  # the only special token that the tiny models know
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and not enable_thinking %} <no thoughts>{% endif %}{{ '\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
SYSTEM_LEFT_OUT = TEMPLATE.replace("for m in messages", "for m in messages if m.role != 'system'")
SPACED = "▁"


def saved(directory: Path, bos: bool = False, template: str | None = None) -> str:
    """A directory that holds the tiny draft model with such a tokenizer."""
    directory.mkdir(parents=True)
    for file in asset_path("asset:tiny/draft").iterdir():
        if file.name != "tokenizer.json":
            (directory / file.name).symlink_to(file)
    content = json.loads((asset_path("asset:tiny/draft") / "tokenizer.json").read_text())
    if bos:
        begun = {"SpecialToken": {"id": BOS, "type_id": 0}}
        content["post_processor"]["single"].insert(0, begun)
        content["post_processor"]["special_tokens"] = {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return str(directory)


def tokenizer(directory: Path, **kind):
    return load_tokenizer(saved(directory, **kind))


def spaced_tokenizer():
    """A tokenizer of Llama 2's kind, which writes a space and a BOS token before every text that it is given."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz():=+,.\n[]/"
    vocabulary = {token: number for number, token in enumerate(("<s>", "</s>", "<unk>", SPACED, *letters))}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACED), normalizers.Replace(" ", SPACED)])
    made.decoder = decoders.Replace(SPACED, " ")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
