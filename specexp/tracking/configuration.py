"""Whether a run may go on in a directory: the first keys in which two resolved configurations differ.

Knows YAML text; not what the keys mean nor which of them may differ: the caller says.
"""
from collections.abc import Collection, Iterator

MISSING = "(absent)"


def differing_keys(old: str, new: str, exclude: Collection[str] = ()) -> Iterator[tuple[str, object, object]]:
    """(dotted key, old value, new value) for every leaf that differs, in the order of `new`; a name in `exclude` covers all below it.

    Both texts are YAML mappings; raises ValueError where one is not YAML. A leaf that one side lacks has the value "(absent)".
    """
    import yaml

    try:
        before, after = dict(_leaves(yaml.safe_load(old))), dict(_leaves(yaml.safe_load(new)))
    except yaml.YAMLError as error:
        raise ValueError("not a YAML document") from error
    for key in dict.fromkeys([*after, *before]):
        a, b = before.get(key, MISSING), after.get(key, MISSING)
        if (type(a), a) != (type(b), b) and not any(f"{key}.".startswith(f"{name}.") for name in exclude):
            yield key, a, b


def _leaves(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Lists count as leaves: they are replaced as a whole, never merged."""
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
