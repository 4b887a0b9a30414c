"""This room decides whether a text is right: the sandbox for code, pass@k, and ROUGE."""
