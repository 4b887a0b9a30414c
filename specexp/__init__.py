"""specexp: speculative decoding on plain transformers models, measured against autoregressive decoding.

Importing the package imports nothing heavy; each room (decoding, models, datasets, ...) is imported by whoever needs it.
"""
