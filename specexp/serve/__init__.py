"""An OpenAI-compatible server over one pair and one method: a queue in front of a decoder that holds one text at a time."""
