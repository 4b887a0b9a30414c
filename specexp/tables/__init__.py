"""`python -m specexp.tables`: count the n-gram tables of a tokenizer."""
