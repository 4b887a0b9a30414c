"""Data sets: examples with their prompts, the score of one text, and the metrics of all. No model code, no configuration."""
