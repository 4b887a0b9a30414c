"""Whether the Hub can be asked at all, found out in seconds: left alone, its client would retry for a minute where there is no network.

Knows no model and no data set. Does not promise that the Hub has what is wanted, nor that it goes on answering.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_SECONDS = 3.0


def offline() -> bool:
    """True if the Hub must not be asked (HF_HUB_OFFLINE) or does not answer a probe of 3 s, which is made once per process."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode() or not _answers(*_probe_address())


@lru_cache(maxsize=4)
def _answers(host: str, port: int) -> bool:
    """In a thread that may be left behind: name resolution knows no timeout and can block much longer than a socket."""
    answered = threading.Event()

    def probe() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=PROBE_SECONDS):
            answered.set()

    thread = threading.Thread(target=probe, daemon=True, name="hub-probe")
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _probe_address() -> tuple[str, int]:
    """The Hub's, or the proxy's where one stands before it: the Hub itself may then not even resolve."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    proxies = getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(hub.hostname or ""):
        hub = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return hub.hostname or "", hub.port or (443 if hub.scheme == "https" else 80)
