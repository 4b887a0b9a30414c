"""Rows from the Hub, or within seconds a sentence that says how to do without. Knows no data set.

Whether the Hub can be asked at all, found out in seconds: left alone, its client would retry for a minute where there is no network.

Knows no model and no data set. Does not promise that the Hub has what is wanted, nor that it goes on answering.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from specexp.errors import UserError


def hub_rows(hub_id: str, revision: str, split: str, subset: str | None = None,
             instead: str = "give dataset.path= a jsonl or parquet file with the same columns", files: str | None = None) -> list[dict]:
    """All rows of a split, from the local cache where the Hub is out of reach or HF_HUB_OFFLINE is set.

    subset: the data set's configuration, where it has several. instead: what the user can do without the Hub. files: a pattern of those to
    take, all of them one split `train`; the others are not fetched.
    """
    import datasets
    import huggingface_hub

    switches = (huggingface_hub.constants, datasets.config)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    alone = any(before) or offline()
    for switch in switches:
        switch.HF_HUB_OFFLINE = alone  # else the libraries try again for a minute
    try:
        if files is None:
            return datasets.load_dataset(hub_id, subset, revision=revision, split=split).to_list()
        # datasets would not find them in its own cache again without a network
        place = huggingface_hub.snapshot_download(hub_id, repo_type="dataset", revision=revision, allow_patterns=files)
        return datasets.load_dataset(place, data_files=files, split=split).to_list()
    except (OSError, ValueError, RuntimeError) as error:
        reason = "there is no network, or HF_HUB_OFFLINE is set" if alone else " ".join(str(error).split())[:200]
        raise UserError(f"data set {hub_id} ({split}) is neither in the local cache nor to be had from the Hub ({reason}): "
                        f"connect to the network, or {instead}.") from error
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


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
