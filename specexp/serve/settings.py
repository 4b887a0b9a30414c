"""Where the server listens and what it takes: `server` in conf/serve.yaml."""

from __future__ import annotations

import os
from dataclasses import dataclass

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """model: the name that requests use. queue: requests waiting at most; more get 429. body_bytes: of a request, larger ones get 413.

    api_key_env: the environment variable that holds the key requests must bring, where it is set. grace_seconds: how long the running
    request may go on after a signal to stop.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 64
    body_bytes: int = 2**20
    api_key_env: str = "SPECEXP_API_KEY"
    grace_seconds: int = 10

    def __post_init__(self) -> None:
        for key, least in (("port", 0), ("queue", 1), ("body_bytes", 1), ("grace_seconds", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"server.{key}={getattr(self, key)} does not fit; give {least} or more.")
        if self.port > 65535:
            raise ValueError(f"server.port={self.port} is no port; give 65535 or less, 0 for any free one.")

    @property
    def api_key(self) -> str | None:
        """Read anew each time, so that it is in no record and no configuration."""
        return os.environ.get(self.api_key_env) or None

    @property
    def is_open(self) -> bool:
        """Anyone who reaches this machine may use it."""
        return self.api_key is None and self.host not in LOCAL
