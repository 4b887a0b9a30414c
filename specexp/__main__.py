"""`python -m specexp` is `specexp`: see specexp/cli/main.py."""

from specexp.cli.main import cli

if __name__ == "__main__":
    cli()
