"""Rows from the Hub, or within seconds a sentence that says how to do without. Knows no data set."""

from specexp.errors import UserError
from specexp.network import offline


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
