"""The front door of every command: composing, checking, explaining. Decodes nothing."""
