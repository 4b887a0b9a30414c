"""Between token ids and text: what a model reads of a prompt (here), where a text ends, and how it is shown while it grows.

A prompt's ids come straight from the tokenizer or through a chat template. Experiments, the console, the server, perplexity and training
all make them by these functions, so that a model learns from texts that begin as those which it decodes. What a tokenizer puts before
every text (its BOS token) is there once, also where a text spells it already because a template was applied to it before. A chat template
writes such tokens itself, and then the tokenizer adds none; the template `plain` writes nothing, so its texts are read as raw ones. This
room knows tokenizers by transformers' interface, and no data sets and no models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path

from specexp.assets import asset_path
from specexp.errors import UserError, decoded, whole

PLAIN = "plain"
PLAIN_TEMPLATE = "{{ messages | map(attribute='content') | select | join('\n\n') }}"
GIVEN = ("messages", "add_generation_prompt", "continue_final_message", "chat_template")  # what a template is given here, and not by a user
TELLING = 3  # characters that show a template; a question mark does not
PROBE, CONTENT = "1", "<the words of a user>"
Message = Mapping[str, str]  # role, content


def leading_ids(tokenizer) -> list[int]:
    """What the tokenizer puts before every text by itself: its BOS token, or nothing."""
    alone, whole = (list(tokenizer(PROBE, **special)["input_ids"]) for special in ({"add_special_tokens": False}, {}))
    return next((whole[:at] for at in range(len(whole)) if whole[at : at + len(alone)] == alone), [])


def is_doubled(ids: Sequence[int], leading: Sequence[int]) -> bool:
    """Whether ids begin with the leading ones twice, since the text spelt them."""
    return bool(leading) and list(ids[: 2 * len(leading)]) == [*leading, *leading]


def text_ids(tokenizer, text: str, **settings) -> list[int]:
    """The ids of a text that a model goes on with; what the tokenizer puts before it is there once. settings: of the tokenizer's call."""
    ids, leading = list(tokenizer(whole(text, "the text"), **settings)["input_ids"]), leading_ids(tokenizer)
    return ids[len(leading) :] if is_doubled(ids, leading) else ids


def answered_ids(tokenizer, prompt: str, answer: str) -> tuple[list[int], int]:
    """(the ids of a prompt and of what a model wrote behind it, how many of them are the prompt's).

    The prompt's are those that decoding begins with. The answer is tokenised behind the prompt, because alone it could get a space or a
    BOS token that no model writes there; where one token holds the end of the one and the beginning of the other, it is tokenised alone.
    """
    before, whole = text_ids(tokenizer, prompt), text_ids(tokenizer, prompt + answer)
    if whole[: len(before)] == before:
        return whole, len(before)
    return before + list(tokenizer(answer, add_special_tokens=False)["input_ids"]), len(before)


class Prompter:
    """Makes the ids of prompts with one tokenizer. arguments: what its chat template is given besides the messages.

    Raises UserError for an argument that the template does not read, or that is not a user's to give.
    """

    def __init__(self, tokenizer, arguments: Mapping[str, object] | None = None):
        self.tokenizer, self.arguments = tokenizer, dict(arguments or {})
        for name in self.arguments:
            if name in GIVEN:
                raise UserError(f"chat_template_args.{name} is not a user's to give; leave it out.")
            if not re.search(rf"\b{re.escape(name)}\b", self.template):
                raise UserError(f"the chat template does not read {name}, so chat_template_args.{name} would do nothing; leave it out.")

    @property
    def template(self) -> str:
        """The text of the chat template, or of all where a tokenizer has several; "" for none."""
        template = self.tokenizer.chat_template or ""
        return template if isinstance(template, str) else "\n".join(template.values())

    @property
    def has_template(self) -> bool:
        return bool(self.template)

    @cached_property
    def leading(self) -> list[int]:
        return leading_ids(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """The ids of a raw prompt. UserError for a text with half a character."""
        ids = list(self.tokenizer(whole(text, "the prompt"))["input_ids"])
        return ids[len(self.leading) :] if is_doubled(ids, self.leading) else ids

    def doubles(self, text: str) -> bool:
        """Whether the text spells what the tokenizer puts before it, which `ids` then leaves out once."""
        return is_doubled(list(self.tokenizer(whole(text, "the prompt"))["input_ids"]), self.leading)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation by the chat template. UserError as for `rendered`."""
        text = self.rendered(messages)
        if self.template == PLAIN_TEMPLATE:
            return self.ids(text)
        return list(self.tokenizer(whole(text, "the conversation"), add_special_tokens=False)["input_ids"])

    def rendered(self, messages: Sequence[Message]) -> str:
        """The text of a conversation by the chat template, up to where the answer begins. UserError where there is no template, and where
        it cannot be parsed or refuses these messages.
        """
        from jinja2 import TemplateError, TemplateSyntaxError  # comes with transformers, whose templates these are

        if not self.has_template:
            raise UserError("the tokenizer has no chat template; choose chat_template=plain or chat_template=FILE.")
        own = self.tokenizer.chat_template
        if isinstance(own, dict) and "default" not in own:
            raise UserError(f"the tokenizer has the chat templates {', '.join(own)} and no default; choose one with chat_template=NAME.")
        try:
            return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **self.arguments)
        except TemplateSyntaxError as error:
            raise UserError(f"the chat template cannot be parsed (line {error.lineno}: {error}); mend it, or give another one.") from error
        except (TemplateError, TypeError, ValueError) as error:
            way_out = "leave out the system prompt" if messages[0]["role"] == "system" else "change their roles or order"
            raise UserError(f"the chat template does not take these messages ({error}); {way_out}.") from error

    def is_rendered(self, text: str) -> bool:
        """Whether a template seems to have been applied to the text already: it spells what the tokenizer puts before every text, or ends
        as the tokenizer's own template lets a user's turn end.
        """
        return self.doubles(text) or text.rstrip().endswith(self._endings)

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        """What the template writes behind a user's words: all of it, and its beginnings up to the end of each line; none for `plain`."""
        try:
            ending = self.rendered([{"role": "user", "content": CONTENT}]).rpartition(CONTENT)[2].strip()
        except UserError:
            return ()
        lines = ending.splitlines()
        found = {"\n".join(lines[:count]).rstrip() for count in range(1, len(lines) + 1)}
        return tuple(text for text in found if len(text) >= TELLING)


def with_template(tokenizer, template: str | None):
    """The tokenizer with the chat template asked for: its own (None), the messages' bare texts ("plain"), one of several that it has, by
    name, or that of a Jinja file.
    """
    if template is None:
        return tokenizer
    named = {PLAIN: PLAIN_TEMPLATE} | (tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {})
    changed = deepcopy(tokenizer)
    changed.chat_template = named[template] if template in named else _read(asset_path(template))
    return changed


def _read(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"chat_template={file} is no file; give a Jinja file, plain for the messages' bare texts, or null.")
    try:
        return decoded(file.read_bytes(), f"chat_template={file}")
    except OSError as error:
        raise UserError(f"chat_template={file} cannot be read ({error}); give a Jinja file in UTF-8.") from error

