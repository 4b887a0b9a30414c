"""Models as pure functions (context, draft) -> logits. Their caches save work and change no answer, except for the streaming cache
(sink.py), which is another model."""
