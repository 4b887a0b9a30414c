"""The command line: finds the command, composes and checks its configuration, and explains mistakes. It decodes nothing itself."""
