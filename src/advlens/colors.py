"""Colors shared by a run's pictures and the page around them."""

FOR, AGAINST = "#b2182b", "#2166ac"
"""Ends of ColorBrewer's RdBu, which are safe for color blindness: pixels that support the explained
class, and pixels that oppose it."""
LUMINANCE = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in a gray value (ITU-R BT.601), as in Pillow."""
