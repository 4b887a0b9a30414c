"""`specexp medusa`: trains or measures Medusa heads for a model."""
