"""Whatever proposes: a model, the text itself, tables, cascades. Drafters know ids and runners, not text or devices' caches."""
