"""Medusa heads: the module, its files, and the command that trains and measures them (`python -m specexp.models.medusa`)."""
