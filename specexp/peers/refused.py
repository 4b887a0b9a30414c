"""What a server says where it does not answer as asked: its own words, on one line, with a code.

Servers write errors in many forms; what they have in common is read here. This module knows nothing of streams and requests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from specexp.errors import UserError

LONGEST_TOLD = 300  # characters of a server's words that are quoted


class Refused(Exception):
    """The server did not answer as asked. code: the HTTP status, or -1 where there was none (LLMPerf uses that number)."""

    def __init__(self, code: int, words: str):
        self.code, self.words, self.url = code, one_line(words), ""
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return self.words[:LONGEST_TOLD]

    def without(self, secret: str, name: str) -> Refused:
        """The same, with a name in the place of a secret."""
        return Refused(self.code, self.words.replace(secret, name))

    def told(self, where: str) -> UserError:
        """The error for the user, where one refused request ends the run. where: " to EXAMPLE"."""
        reason = self.message.rstrip(".")
        return UserError(
            f"{self.url} answered{where} with {self.code} ({reason}); method.on_error=count would go on without that request."
        )


def error_in(chunk: object, always: bool) -> object:
    """The error that a chunk, or a whole body, holds; None where it holds none. always: it is one, whatever it looks like."""
    if not isinstance(chunk, dict):
        return chunk if always else None
    if error := chunk.get("error"):
        return error
    return chunk if always or chunk.get("object") == "error" else None


def error_words(error: object) -> str:
    """The message of an error: OpenAI's servers send an object with a message, FastAPI's a `detail`, others the message alone."""
    if isinstance(error, dict):
        found = next((error[key] for key in ("message", "detail", "msg", "error") if error.get(key)), None)
        place = ".".join(map(str, error["loc"])) + ": " if isinstance(error.get("loc"), list) else ""  # the field that FastAPI refuses
        return json.dumps(error) if found is None else place + error_words(found)
    return "; ".join(map(error_words, error)) if isinstance(error, list) else str(error)


def error_code(error: object) -> int:
    """The code of an error inside a stream, whose HTTP status was sent before; -1 where it has no number."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int else -1


def one_line(text: str) -> str:
    """Without line ends, control characters, and halves of characters that no file can hold."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in whole([text])).split())


def whole(texts: Sequence[str]) -> str:
    """The texts joined. A character that a server sent in two halves is one again, and a half alone is the mark of what cannot be read."""
    return "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
