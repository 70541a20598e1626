"""The command line: verbs, flags and how words become settings; no mathematics."""

from advlens.cli.verbs import main

__all__ = ["main"]
