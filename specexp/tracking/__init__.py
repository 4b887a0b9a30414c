"""What a run leaves behind: records on disk always, Weights & Biases after them. Knows nothing of decoding or models."""
