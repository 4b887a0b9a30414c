"""`python -m specexp` is the run: see specexp/cli/main.py."""

from specexp.cli.main import cli

if __name__ == "__main__":
    cli()
