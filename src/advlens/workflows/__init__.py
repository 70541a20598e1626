"""Workflows of several steps: training to a model card, stored attacks, pruning, reproduction."""
