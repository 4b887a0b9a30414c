"""The experiments under conf/experiment that print a table."""

from pathlib import Path

import yaml

from specexp.cli.messages import conf_directory

FILES = {file.stem: file for file in sorted((Path(conf_directory()) / "experiment").glob("*.yaml"))}

CONTENT = {name: yaml.safe_load(file.read_text()) for name, file in FILES.items()}

PAPERS = [name for name, content in CONTENT.items() if "jobs" in content.get("hydra", {}).get("sweeper", {})]
