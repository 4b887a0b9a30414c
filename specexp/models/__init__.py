"""Models as pure functions: loading, runners, caches, and the training of the shipped tiny models."""
