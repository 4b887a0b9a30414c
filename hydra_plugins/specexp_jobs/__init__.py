"""Hydra finds sweepers only below this namespace, so the project's own sweeper lies here and not in the package."""
