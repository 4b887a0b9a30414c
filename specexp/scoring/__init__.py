"""Whether a text is right: the sandbox, pass@k, ROUGE."""
