"""Other people's decoding behind the stream of ours: the same prompts, weights, clocks and records, their own loops."""
