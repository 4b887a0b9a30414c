"""Adds the configurations of installed plugins to those that Hydra finds, for this project's commands alone."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from specexp.cli.plugins import conf_directory, plugin_folders


class PluginFolders(SearchPathPlugin):
    """Behind the project's own folder: a plugin adds choices and replaces none."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if any(element.path == conf_directory() for element in search_path.get_path()):
            for folder in plugin_folders():
                search_path.append("specexp-plugin", f"file://{folder}")
