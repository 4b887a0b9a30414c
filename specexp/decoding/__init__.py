"""What the papers describe: drafts, verification, sampling, draft lengths and the loop that all methods share.

This package works on token ids and distributions. It knows nothing of text, caches, files or configuration.
"""
