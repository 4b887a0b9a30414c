"""Answers prompts one after another, for the console and the server."""
