"""Models as pure functions (context, draft) -> logits, with caches that are only a memo of them."""
