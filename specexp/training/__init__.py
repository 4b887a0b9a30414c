"""This room makes files: the tiny pairs, Medusa heads, n-gram tables, corpora."""
