"""`python -m specexp.medusa`: train or measure Medusa heads for a target."""
