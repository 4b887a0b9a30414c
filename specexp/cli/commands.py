"""The commands of `specexp`, one line each. A module of the table has a function `cli` without arguments, which reads sys.argv.

The modules are imported only when their command is called.
"""

COMMANDS = {  # name: (module, what the command does)
    "run": ("specexp.cli.run", "measure a method beside plain decoding; the word may be left out"),
    "report": ("specexp.report.__main__", "tables, comparisons and explanations of finished runs"),
    "chat": ("specexp.chat.__main__", "a console that decodes what you type by several methods"),
    "serve": ("specexp.serve.__main__", "a server that speaks OpenAI's API"),
    "perplexity": ("specexp.perplexity.__main__", "how well a model predicts a text under several caches"),
    "medusa": ("specexp.medusa.__main__", "train or measure Medusa heads for a model"),
    "tables": ("specexp.tables.__main__", "count the n-gram tables of a tokenizer"),
}
