"""`specexp tables`: counts the n-gram tables of a tokenizer."""
