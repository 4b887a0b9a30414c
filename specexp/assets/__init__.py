"""This room holds what the package ships: the tiny models and the data sets made for them. It knows where they lie, not what is in them."""

from pathlib import Path

PREFIX = "asset:"


def asset_path(name: str | Path) -> Path:
    """`asset:NAME` is NAME in this folder; anything else is an ordinary path, in which `~` is expanded. Whether it exists is not checked.
    """
    name = str(name)
    if name.startswith(PREFIX):
        return Path(__file__).resolve().parent / name.removeprefix(PREFIX)
    return Path(name).expanduser()
