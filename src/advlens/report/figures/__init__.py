"""Plots of a run: plain functions from rows to a matplotlib `Figure`, and how they are saved."""
