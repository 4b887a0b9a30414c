"""An OpenAI-compatible server over one pair and one method: requests wait in a queue, because the decoder works on one text at a time."""
