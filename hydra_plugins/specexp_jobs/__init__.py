"""Hydra finds sweepers only below this namespace, so the project's own one lies here and not in the package."""
