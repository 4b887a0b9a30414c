"""Judging a run from its records: speed with intervals, acceptance, cost, pass@k, ROUGE. Pure functions; no models, no configuration."""
