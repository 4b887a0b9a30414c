"""Rows from the Hub, or within seconds a sentence that says how to do without. Knows no data set."""

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies

from specexp.errors import UserError

PROBE_SECONDS = 3.0


def hub_rows(hub_id: str, revision: str, split: str, subset: str | None = None,
             instead: str = "give dataset.path= a jsonl or parquet file with the same columns") -> list[dict]:
    """All rows of a split, from the local cache where the Hub is out of reach or HF_HUB_OFFLINE is set.

    subset: the data set's configuration, where it has several. instead: what the user can do without the Hub.
    """
    import datasets
    import huggingface_hub

    constants = huggingface_hub.constants
    if not constants.HF_HUB_OFFLINE and not answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True  # else the libraries try again for a minute
    try:
        return datasets.load_dataset(hub_id, subset, revision=revision, split=split).to_list()
    except (OSError, ValueError, RuntimeError) as error:
        reason = "there is no network, or HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else " ".join(str(error).split())[:200]
        raise UserError(f"data set {hub_id} ({split}) is neither in the local cache nor to be had from the Hub ({reason}): "
                        f"connect to the network, or {instead}.") from error


def answers(endpoint: str) -> bool:
    """Whether a connection to the address can be opened within PROBE_SECONDS; behind a proxy nobody can tell, so yes."""
    if getproxies().get("https"):
        return True
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    opened = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((address.hostname, port), timeout=PROBE_SECONDS).close()
        except OSError:
            return
        opened.set()

    prober = threading.Thread(target=probe, daemon=True)  # looking up a name knows no timeout of its own
    prober.start()
    prober.join(PROBE_SECONDS)
    return opened.is_set()
