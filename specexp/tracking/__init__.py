"""This room keeps what a run leaves behind: always records on disk, and after them Weights & Biases. It knows nothing of decoding and
models.
"""
