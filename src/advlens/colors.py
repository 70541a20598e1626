"""Colors that the pictures of a run and the page around them share."""

FOR, AGAINST = "#b2182b", "#2166ac"
"""Ends of ColorBrewer's RdBu, which color blindness leaves apart: pixels that speak for the class
explained, and against it."""
