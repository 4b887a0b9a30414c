"""Tables of a corpus for one tokenizer: counting n-grams, files, and the command that builds them (`python -m specexp.drafters.tables`)."""
