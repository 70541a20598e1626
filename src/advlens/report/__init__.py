"""The report: one page made from the tables of a run, a part for each analysis.

What makes it reads the run folder alone: neither a model nor PyTorch is loaded.
"""
