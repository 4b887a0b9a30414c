"""Between token ids and text: where a text ends, and how it is shown while it grows."""
