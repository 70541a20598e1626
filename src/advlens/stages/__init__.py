"""Analyses of an audit: each says what it streams over, what it computes, and how it is shown.

A new analysis is a new module with a class like those of `accuracy` and `neurons`, added to the
list that is given to the audit.
"""

from advlens.stages.base import Context, Need, Stage, View, Work

__all__ = ["Context", "Need", "Stage", "View", "Work"]
