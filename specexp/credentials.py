"""Keys and passwords stay in the environment: a configuration that holds one is refused, for it is written to disk and sent to W&B.

Knows the values of environment variables whose names say that they are secret; a secret from elsewhere it cannot tell.
"""

import os
import re
from collections.abc import Iterator

from specexp.errors import UserError

NAMED_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
SHORTEST = 12  # characters; a shorter value may well stand in a configuration by chance


def refuse_credentials(config: dict) -> None:
    """UserError naming the key of a resolved configuration whose text contains a secret of the environment; never the secret itself."""
    secrets = {name: value for name, value in os.environ.items() if NAMED_SECRET.search(name) and len(value) >= SHORTEST}
    for key, text in _texts(config):
        for name, value in secrets.items():
            if value in text:
                raise UserError(
                    f"{key} holds the secret of the environment variable {name}, and a configuration is written to disk; leave it out, "
                    "as whatever needs a key reads the environment."
                )


def _texts(node: object, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in nested dicts and lists."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, (dict, list)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _texts(child, f"{path}.{key}" if path else str(key))
