"""The command line: verbs, flags, and the conversion of words to settings; no mathematics."""

from advlens.cli.verbs import main

__all__ = ["main"]
