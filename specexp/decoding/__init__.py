"""The paper: drafts, verification, sampling, policies and the one loop.

Knows token ids and distributions. Knows nothing of text, caches, devices or configuration.
"""
